//! One line of the result: what, ours, against what, the ratio, the aim, and whether it was met. Pure.

use serde_json::{Value, json};

use super::summary::{Summary, number};

/// One measured thing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    ours: Summary,
    against: Option<(String, Summary)>,
    /// Where it is not simply that of the medians.
    ratio: Option<f64>,
    aim: Option<Aim>,
}

/// What a median should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// At most this, in the row's unit.
    AtMost(f64),
    /// At most this in the 99th percentile, in the row's unit.
    P99AtMost(f64),
    /// At most this many times what it is compared with.
    Ratio(f64),
    /// At least this many times what it is compared with.
    RatioAtLeast(f64),
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str, ours: Summary) -> Self {
        Self { what: what.into(), unit, ours, against: None, ratio: None, aim: None }
    }

    pub(crate) fn against(mut self, name: impl Into<String>, other: Summary) -> Self {
        self.against = Some((name.into(), other));
        self
    }

    pub(crate) fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    /// A ratio that was taken pairwise: a busy machine slows both sides of a pair.
    pub(crate) fn ratio_of(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    fn ratio(&self) -> Option<f64> {
        let of_medians = self.against.as_ref().map(|(_, other)| self.ours.p50 / other.p50);
        self.ratio.or(of_medians)
    }

    fn aim_text(&self) -> String {
        match self.aim {
            None => String::new(),
            Some(Aim::AtMost(limit)) => format!("≤ {} {}", number(limit), self.unit),
            Some(Aim::P99AtMost(limit)) => format!("p99 ≤ {} {}", number(limit), self.unit),
            Some(Aim::Ratio(limit)) => format!("≤ {limit} ×"),
            Some(Aim::RatioAtLeast(limit)) => format!("≥ {limit} ×"),
        }
    }

    /// How the median compares with the aim.
    pub(crate) fn verdict(&self) -> String {
        let (value, limit, unit) = match (self.aim, self.ratio()) {
            (Some(Aim::AtMost(limit)), _) => (self.ours.p50, limit, self.unit),
            (Some(Aim::P99AtMost(limit)), _) => (self.ours.p99, limit, self.unit),
            (Some(Aim::Ratio(limit) | Aim::RatioAtLeast(limit)), Some(ratio)) => (ratio, limit, "×"),
            _ => return String::new(),
        };
        let missed = if let Some(Aim::RatioAtLeast(_)) = self.aim { limit - value } else { value - limit };
        if missed <= 0.0 {
            return "met".to_owned();
        }
        format!("missed by {} {unit} ({:.0} %)", number(missed), missed / limit * 100.0)
    }

    fn cells(&self) -> [String; 6] {
        let against = self.against.as_ref();
        [
            self.what.clone(),
            format!("{} {}", self.ours.text(), self.unit),
            against
                .map(|(name, other)| format!("{name}: {} {}", other.text(), self.unit))
                .unwrap_or_default(),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            self.aim_text(),
            self.verdict(),
        ]
    }

    pub(crate) fn json(&self) -> Value {
        let against = self.against.as_ref();
        json!({
            "what": self.what, "unit": self.unit, "ours": self.ours.json(),
            "against": against.map(|(name, other)| json!({ "name": name, "figures": other.json() })),
            "ratio": self.ratio(), "aim": self.aim_text(), "verdict": self.verdict(),
        })
    }
}

/// All rows as a Markdown table whose columns line up in a terminal, too.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = ["what", "ours (min / p50 / p99)", "against", "ratio", "aim", "result"].map(str::to_owned);
    let cells: Vec<[String; 6]> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| -> String {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("| {cell:width$} "));
        padded.collect::<String>() + "|\n"
    };
    let rule: String = widths.iter().map(|width| format!("|{}", "-".repeat(width + 2))).collect();
    let body: String = cells.iter().skip(1).map(line).collect();
    format!("{}{rule}|\n{body}", cells.first().map(line).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(row: Row, verdict: &str) {
        assert_eq!(row.verdict(), verdict, "{row:?}");
    }

    #[test]
    fn a_missed_aim_says_by_how_much() {
        let ms = |value| Row::new("x", "ms", Summary::single(value));
        check(ms(5.0), "");
        check(ms(80.0).aim(Aim::AtMost(80.0)), "met");
        check(ms(92.0).aim(Aim::AtMost(80.0)), "missed by 12.0 ms (15 %)");
        check(ms(6.0).against("crun", Summary::single(10.0)).aim(Aim::Ratio(0.7)), "met");
        check(ms(9.1).against("crun", Summary::single(10.0)).aim(Aim::Ratio(0.7)), "missed by 0.21 × (30 %)");
        check(ms(9.0).aim(Aim::Ratio(0.7)), "");
        let rate = |value| ms(value).against("nftables", Summary::single(10.0)).aim(Aim::RatioAtLeast(2.0));
        check(rate(20.0), "met");
        check(rate(15.0), "missed by 0.50 × (25 %)");
        let spread = Summary { p99: 12.0, ..Summary::single(1.0) };
        check(Row::new("x", "ms", spread).aim(Aim::P99AtMost(10.0)), "missed by 2.00 ms (20 %)");
    }

    #[test]
    fn the_table_lines_up() {
        let row = Row::new("größe", "MB", Summary::single(1.5)).aim(Aim::AtMost(40.0));
        let text = table(&[row]);
        let widths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 3);
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(text.contains("| größe | 1.50 MB"), "{text}");
        assert!(text.contains("| ≤ 40.0 MB | met"), "{text}");
    }
}
