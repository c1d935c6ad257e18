//! Tests of the pure parts and of the loop, as data: services in, tables out.

use expect_test::Expect;

use crate::maps::{FakeMaps, Maps as _};
use crate::model::Node;
use crate::reconcile::State;

mod cases;
mod fixture;
mod order;
mod policies;
mod reconcile;
mod rows;
mod tables;

/// The node of every test, as in `testdata/cases.yaml`.
fn node() -> Node {
    Node { name: "node-a".to_owned(), zone: Some("z1".to_owned()), ..Node::default() }
}

/// A dataplane on fake maps that has seen these services.
fn state(yaml: &str) -> State<FakeMaps> {
    let mut state = State::new(FakeMaps::default(), node());
    set(&mut state, yaml);
    state
}

/// Makes these all services there are.
fn set(state: &mut State<FakeMaps>, yaml: &str) {
    for update in fixture::lists(&fixture::parse(yaml)) {
        state.ingest(update);
    }
    state.sync();
}

/// What the maps hold, as an operator reads it.
fn shown(state: &State<FakeMaps>) -> String {
    state.maps().dump().map(|tables| tables.to_string()).unwrap_or_else(|error| error.to_string())
}

/// Services in, map contents out.
fn check(yaml: &str, expect: Expect) {
    expect.assert_eq(&shown(&state(yaml)));
}
