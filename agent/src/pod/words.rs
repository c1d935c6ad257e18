//! Small texts that must look as upstream prints them: durations, pod names in messages, lists.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

/// A duration as Go prints it: `10s`, `1m20s`, `1.234s`, `12ms`, `0s`.
pub fn go_duration(duration: Duration) -> String {
    let (secs, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if secs == 0 {
        return match nanos {
            0 => "0s".into(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => fraction(nanos / 1_000, nanos % 1_000, 3, "µs"),
            _ => fraction(nanos / 1_000_000, nanos % 1_000_000, 6, "ms"),
        };
    }
    let (hours, minutes) = (secs / 3600, secs / 60 % 60);
    let mut text = String::new();
    if hours > 0 {
        text += &format!("{hours}h");
    }
    if secs >= 60 {
        text += &format!("{minutes}m");
    }
    text + &fraction(u32::try_from(secs % 60).unwrap_or_default(), nanos, 9, "s")
}

fn fraction(whole: u32, part: u32, digits: usize, unit: &str) -> String {
    let part = format!("{part:0digits$}");
    match part.trim_end_matches('0') {
        "" => format!("{whole}{unit}"),
        part => format!("{whole}.{part}{unit}"),
    }
}

/// `name_namespace(uid)`, as in back-off messages.
pub fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// `[a b]`, as Go prints a list of strings.
pub fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_them() {
        let cases = [
            (10_000, "10s"),
            (80_000, "1m20s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
            (1_234, "1.234s"),
            (12, "12ms"),
            (0, "0s"),
        ];
        for (millis, text) in cases {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
