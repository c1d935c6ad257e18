//! `[p]` `/statusz` and `/flagz`, for people who look at one node (KEP-4827, KEP-4828): the texts of Kubernetes 1.34.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use jiff::Timestamp;

/// What both begin with, so that nobody builds upon it.
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility \
                       guarantees and is for debugging purposes only.";

/// Since when this process runs, and what it is.
pub(super) fn statusz(started: Timestamp, now: Timestamp, version: &str) -> String {
    let up = Duration::try_from(now.duration_since(started)).unwrap_or_default().as_secs();
    let started = started.strftime("%a %b %e %H:%M:%S UTC %Y");
    let up = format!("{} hr {:02} min {:02} sec", up / 3600, up / 60 % 60, up % 60);
    format!("\nkubelet statusz\n{WARNING}\n\nStarted: {started}\nUp: {up}\nBinary version: {version}\n")
}

/// Flags and what was said of them.
pub(super) fn flagz(flags: &BTreeMap<String, String>) -> String {
    let mut text = format!("\nkubelet flags\n{WARNING}\n\n");
    for (flag, value) in flags {
        // Writing to a string does not fail.
        let _never = writeln!(text, "{flag}={value}");
    }
    text
}

/// Whether who asks takes plain text, by the `Accept` header.
pub(super) fn acceptable(accept: Option<&str>) -> bool {
    let plain = |part: &str| {
        let kind = part.split(';').next().unwrap_or_default().trim();
        matches!(kind, "*/*" | "text/*" | "text/plain")
    };
    accept.is_none_or(|accept| accept.trim().is_empty() || accept.split(',').any(plain))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn as_people_read_them() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let text = statusz(at("2026-01-05T03:04:05Z"), at("2026-01-06T04:05:06.9Z"), "v1");
        expect![[r#"

            kubelet statusz
            Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.

            Started: Mon Jan  5 03:04:05 UTC 2026
            Up: 25 hr 01 min 01 sec
            Binary version: v1
        "#]]
        .assert_eq(&text);
        let flags = [("max-pods".to_owned(), "5".to_owned())].into();
        assert!(
            flagz(&flags).starts_with("\nkubelet flags\nWarning: ")
                && flagz(&flags).ends_with("\n\nmax-pods=5\n")
        );
    }

    #[test]
    fn who_wants_something_else_gets_nothing() {
        for (accept, expected) in [
            (None, true),
            (Some(""), true),
            (Some("application/json, */*"), true),
            (Some("text/plain; charset=utf-8"), true),
            (Some("text/*;q=0.5"), true),
            (Some("application/json"), false),
            (Some("text/html"), false),
        ] {
            assert_eq!(acceptable(accept), expected, "{accept:?}");
        }
    }
}
