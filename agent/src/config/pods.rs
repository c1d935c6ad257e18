//! Settings about pods: how large logs may be, ids for user namespaces, what of the machine is not theirs.

use std::fs;

use orlop_model::quantities::Quantity;
use orlop_runtime::{ids::IdRange, log::Limits as LogLimits};

use super::{ConfigError, error::value, subids, words::words};
use crate::pod::settings::Reserved;

pub(super) fn log_limits(
    max_size: Option<String>,
    max_files: Option<usize>,
) -> Result<LogLimits, ConfigError> {
    let defaults = LogLimits::default();
    let flag = "container-log-max-size";
    let max_size = match max_size {
        None => defaults.max_size,
        Some(text) => {
            let size = Quantity::parse(&text).map_err(|error| value(flag, &text, error))?.value();
            u64::try_from(size)
                .ok()
                .filter(|size| *size > 0)
                .ok_or_else(|| value(flag, &text, "must be positive"))?
        }
    };
    let max_files = max_files.unwrap_or(defaults.max_files);
    if max_files < 2 {
        return Err(value("container-log-max-files", max_files, "must be 2 at least"));
    }
    Ok(LogLimits { max_size, max_files })
}

pub(super) fn user_namespace_ids(said: Option<String>, max_pods: u32) -> Result<IdRange, ConfigError> {
    let flag = "user-namespace-ids";
    let pool = match said {
        None => {
            let text = |path| fs::read_to_string(path).unwrap_or_default();
            let of_user = subids::pool(&text("/etc/subuid"), &text("/etc/subgid"));
            let of_user = of_user.map_err(|reason| value(flag, subids::USER, reason))?;
            of_user.unwrap_or_else(|| IdRange::for_pods(max_pods))
        }
        Some(text) => {
            let numbers = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let (first, count) = numbers.ok_or_else(|| value(flag, &text, "must be `first:count`"))?;
            IdRange::pool(first, count).map_err(|reason| value(flag, &text, reason))?
        }
    };
    Ok(pool)
}

/// `cpu=500m,memory=1Gi`.
pub(super) fn reserved(flag: &'static str, text: Option<String>) -> Result<Reserved, ConfigError> {
    let mut reserved = Reserved::default();
    for word in words(text) {
        let (name, amount) = word.split_once('=').ok_or_else(|| value(flag, &word, "must be NAME=AMOUNT"))?;
        let amount = Quantity::parse(amount).map_err(|error| value(flag, &word, error))?;
        let (field, amount) = match name {
            "cpu" => (&mut reserved.cpu_milli, amount.milli()),
            "memory" => (&mut reserved.memory, amount.value()),
            "ephemeral-storage" => (&mut reserved.ephemeral_storage, amount.value()),
            _ => return Err(value(flag, &word, "only cpu, memory and ephemeral-storage can be reserved")),
        };
        let amount = i64::try_from(amount).ok().filter(|amount| *amount >= 0);
        *field = amount.ok_or_else(|| value(flag, &word, "must not be negative"))?;
    }
    Ok(reserved)
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn limits_of_logs_are_checked() {
        let check = |more: &str, expected: expect_test::Expect| {
            check(&format!("{{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, {more}}}"), expected);
        };
        check(
            "containerLogMaxFiles: 1",
            expect_test::expect![[r#"--container-log-max-files "1": must be 2 at least"#]],
        );
        check(
            "containerLogMaxSize: 0",
            expect_test::expect![[r#"--container-log-max-size "0": must be positive"#]],
        );
        check(
            "containerLogMaxSize: 100Ki, containerLogMaxFiles: 3",
            expect_test::expect!["n1 10.0.0.3 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
    }

    #[test]
    fn ulimits_are_checked() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.1, shim: /s, defaultUlimits: 'core=0,nofile=5:1'}",
            expect_test::expect![[r#"--default-ulimits "nofile=5:1": the soft limit is above the hard one"#]],
        );
    }
}
