//! `[p]` The text form of Prometheus, for what is read when it is asked for and not counted by us. Not for: metrics of a
//! registry (`crate::metrics`).

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::usage::series::Value;

/// Metrics that are being written down.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// Begins a metric; its samples follow.
    pub(super) fn family(&mut self, name: &str, help: &str, kind: &str) {
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// A sample of the metric that was begun.
    pub(super) fn sample<'a>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        value: Value,
        at: Option<Timestamp>,
    ) {
        self.0.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            self.0.push(separator);
            separator = ',';
            self.0.push_str(label);
            self.0.push_str("=\"");
            value.chars().for_each(|c| match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            });
            self.0.push('"');
        }
        if separator == ',' {
            self.0.push('}');
        }
        // Writing into a string cannot fail.
        let _never = match value {
            Value::Count(count) => write!(self.0, " {count}"),
            Value::Nanos(nanos) => {
                write!(self.0, " {}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
            }
        };
        if let Some(at) = at {
            let _never = write!(self.0, " {}", at.as_millisecond());
        }
        self.0.push('\n');
    }

    /// A sample without labels that may be anything.
    pub(super) fn number(&mut self, name: &str, value: f64) {
        let shown = if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() };
        self.0.push_str(&format!("{name} {shown}\n"));
    }

    /// All that was written.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_times_are_milliseconds() {
        let mut page = Page::default();
        page.family("a", "Help.", "gauge");
        page.sample("a", [], Value::Count(7), None);
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        page.sample("a", [("l", "x\\\"\ny"), ("m", "")], Value::Nanos(1_000_000_005), Some(at));
        let text = page.finish();
        let expected =
            "# HELP a Help.\n# TYPE a gauge\na 7\na{l=\"x\\\\\\\"\\ny\",m=\"\"} 1.000000005 1700000000123\n";
        assert_eq!(text, expected);
    }
}
