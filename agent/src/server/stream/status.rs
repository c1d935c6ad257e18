//! `[p]` What a client is told at the end of a command, on its error stream.

use serde_json::json;

/// How much the client understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Text on failure, nothing on success.
    Text,
    /// A `metav1.Status` (v4 and later).
    Status,
}

/// How a command or a look at a container ended: exit code, or why there was none.
pub(crate) fn words(version: Version, end: &Result<i32, String>) -> String {
    let status = match (version, end) {
        (Version::Text, Ok(0)) => return String::new(),
        (Version::Text, Ok(code)) => return non_zero(*code),
        (Version::Text, Err(error)) => return could_not(error),
        (Version::Status, Ok(0)) => json!({"metadata": {}, "status": "Success"}),
        (Version::Status, Ok(code)) => json!({
            "metadata": {}, "status": "Failure", "message": non_zero(*code), "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        (Version::Status, Err(error)) => json!({
            "metadata": {}, "status": "Failure", "message": could_not(error), "reason": "InternalError",
            "details": {"causes": [{"message": error}]}, "code": 500,
        }),
    };
    status.to_string()
}

/// That there is no command or container to look at, in the words of upstream's API server.
pub(crate) fn refused(why: &str) -> String {
    let text = format!("unable to upgrade connection: {why}");
    let status = json!({
        "metadata": {}, "status": "Failure", "message": format!("Internal error occurred: {text}"),
        "reason": "InternalError", "details": {"causes": [{"message": text}]}, "code": 500,
    });
    status.to_string()
}

fn non_zero(code: i32) -> String {
    format!("command terminated with non-zero exit code: exit code {code}")
}

fn could_not(error: &str) -> String {
    format!("error executing command in container: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_exit_code() {
        let check = |version, end: Result<i32, &str>, expected: &str| {
            assert_eq!(words(version, &end.map_err(str::to_owned)), expected);
        };
        check(Version::Status, Ok(0), r#"{"metadata":{},"status":"Success"}"#);
        check(
            Version::Status,
            Ok(3),
            r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: exit code 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#,
        );
        check(
            Version::Status,
            Err("no such program"),
            r#"{"code":500,"details":{"causes":[{"message":"no such program"}]},"message":"error executing command in container: no such program","metadata":{},"reason":"InternalError","status":"Failure"}"#,
        );
        check(Version::Text, Ok(0), "");
        check(Version::Text, Err("x"), "error executing command in container: x");
    }
}
