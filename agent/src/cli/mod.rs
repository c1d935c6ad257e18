//! The short-lived commands: each works from files, sockets and maps, with no API server and no agent (but `trace`,
//! which asks the agent).

mod find;
mod flows;
mod images;
mod inspect;
mod kubeconfig;
mod logs;
mod policies;
mod ps;
mod reset;
mod services;
mod session;
mod terminal;
mod trace;

pub(crate) use flows::flows;
pub(crate) use images::images;
pub(crate) use inspect::{inspect, stats};
pub(crate) use kubeconfig::kubeconfig;
pub(crate) use logs::logs;
pub(crate) use policies::policies;
pub(crate) use ps::ps;
pub(crate) use reset::reset;
pub(crate) use services::{connections, explain, services};
pub(crate) use session::{attach, exec};
pub(crate) use trace::trace;

/// Prints rows as aligned columns, the way kubectl does: no borders, three spaces between.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    };
    let head = line(header.to_vec());
    rows.iter().fold(head, |text, row| text + &line(row.iter().map(String::as_str).collect()))
}

/// A size as people read it: `12.3MB`, powers of ten as in image lists.
fn human_size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut tenths = bytes.saturating_mul(10);
    while tenths >= 10_000 && unit + 1 < units.len() {
        tenths /= 1000;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{}.{}{}", tenths / 10, tenths % 10, units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned(), "x".to_owned()]];
        expect_test::expect![[r"
            NAME   B           C
            a      long cell   x
        "]]
        .assert_eq(&table(&["NAME", "B", "C"], &rows));
    }

    #[test]
    fn sizes_have_one_digit_after_the_point() {
        assert_eq!([999, 1000, 12_345_678].map(human_size), ["999B", "1.0kB", "12.3MB"].map(str::to_owned));
    }
}
