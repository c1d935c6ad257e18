//! The workers' doors, connected to the real runtime and image store: only translation, no decision.
//!
//! Errors become the text that users see in pod statuses and events: the whole chain of causes.

pub mod images;
pub mod logs;
pub mod requests;
pub mod reviews;
pub mod runtime;

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
