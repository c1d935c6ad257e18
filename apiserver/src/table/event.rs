//! Events of both groups, which are one kind with different field names.

use jiff::Timestamp;
use serde_json::Value;

use super::read::{at, number, or, since};
use super::{Column, Printer, read, text, wide};

pub(super) const PRINTER: Printer = Printer {
    columns: &[
        text("Last Seen"),
        text("Type"),
        text("Reason"),
        text("Object"),
        wide("Subobject"),
        wide("Source"),
        text("Message"),
        wide("First Seen"),
        wide("Count"),
        Column("Name", "string", 1),
    ],
    cells,
};

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    // core/v1 name first, events.k8s.io/v1 name second.
    let either = |a: &str, b: &str| or(at(event, a), at(event, b)).to_owned();
    let target = if event.get("involvedObject").is_some() { "/involvedObject" } else { "/regarding" };
    let of_target = |field: &str| at(event, &format!("{target}/{field}"));

    let first_time = either("/firstTimestamp", "/deprecatedFirstTimestamp");
    let first = since(or(&first_time, at(event, "/eventTime")), now);
    let last_time = either("/lastTimestamp", "/deprecatedLastTimestamp");
    let mut last = if last_time.is_empty() { first.clone() } else { since(&last_time, now) };
    let mut count = number(event, "/count").max(number(event, "/deprecatedCount"));
    if let Some(series) = event.get("series").filter(|s| s.is_object()) {
        last = since(at(series, "/lastObservedTime"), now);
        count = number(series, "/count");
    } else if count == 0 {
        // Events of the new API that happened once carry no count.
        count = 1;
    }

    let kind = of_target("kind").to_lowercase();
    let object = match of_target("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        last.into(),
        at(event, "/type").into(),
        at(event, "/reason").into(),
        object.into(),
        of_target("fieldPath").into(),
        source(event).into(),
        either("/message", "/note").trim().into(),
        first.into(),
        count.into(),
        read::name(event),
    ]
}

fn source(event: &Value) -> String {
    let first =
        |paths: &[&str]| paths.iter().map(|p| at(event, p)).find(|s| !s.is_empty()).unwrap_or_default();
    let component = first(&[
        "/source/component",
        "/deprecatedSource/component",
        "/reportingComponent",
        "/reportingController",
    ]);
    match first(&["/source/host", "/deprecatedSource/host", "/reportingInstance"]) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}
