//! How many services, endpoints and connections the dataplane's maps hold.

use orlop_dataplane::sizes::Sizes;

use super::{ConfigError, error::value};

/// From what a small node needs to what a kernel gives without thinking: a million connections are 300 MB of its memory.
const LEAST: u32 = 256;
const MOST: u32 = 4_194_304;
const MOST_CONNECTIONS: u32 = 1_048_576;

/// What is not said is the dataplane's default.
pub(super) fn parse(
    services: Option<u32>,
    endpoints: Option<u32>,
    connections: Option<u32>,
) -> Result<Sizes, ConfigError> {
    let default = Sizes::default();
    Ok(Sizes {
        services: within("max-services", services.unwrap_or(default.services), MOST)?,
        endpoints: within("max-endpoints", endpoints.unwrap_or(default.endpoints), MOST)?,
        connections: within("max-connections", connections.unwrap_or(default.connections), MOST_CONNECTIONS)?,
    })
}

fn within(flag: &'static str, size: u32, most: u32) -> Result<u32, ConfigError> {
    match (LEAST..=most).contains(&size) {
        true => Ok(size),
        false => Err(value(flag, size, format!("must lie between {LEAST} and {most}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn sizes_that_no_map_can_have_are_refused() {
        let with = |field: &str| format!("{{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, {field}}}");
        check(
            &with("maxServices: 10"),
            expect_test::expect![[r#"--max-services "10": must lie between 256 and 4194304"#]],
        );
        check(
            &with("maxConnections: 2000000"),
            expect_test::expect![[r#"--max-connections "2000000": must lie between 256 and 1048576"#]],
        );
        check(
            &with("maxEndpoints: 500000"),
            expect_test::expect!["n1 10.0.0.3 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
    }
}
