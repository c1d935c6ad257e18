//! Which part of the way from create to Ready belongs to whom. Pure.
//!
//! The agent logs when it starts an action of a pod and when its result is in; the client knows when it asked, when it
//! got its answer and what its watch said; the container log carries the time of its first line. All of them use one
//! clock, so the way can be cut into pieces without gaps. Volumes and image are prepared beside sandbox and network and
//! show up as waiting only when they take longer. The first byte may come before or after the start is reported.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

/// The pieces, in their order; they add up to the whole.
pub(crate) const STAGES: [&str; 8] = [
    "API commit (create returns)",
    "schedule (watch says nodeName)",
    "agent hears of it",
    "sandbox (namespaces, cgroups, shim)",
    "network",
    "waiting for volumes and image",
    "create (rootfs, libcontainer, exec)",
    "status written, watch says Ready",
];

/// What runs beside them, or is a part of them.
pub(crate) const BESIDE: [&str; 3] =
    ["beside it: volumes", "beside it: image", "from the start of create to the first byte of output"];

/// When an action of a pod began and ended, in microseconds since the epoch.
pub(crate) type Actions = BTreeMap<String, (u64, Option<u64>)>;

/// First action of each kind per pod UID.
pub(crate) fn actions(log: &str) -> BTreeMap<String, Actions> {
    let mut pods: BTreeMap<String, Actions> = BTreeMap::new();
    for line in log.lines() {
        let Some((at, uid, happened)) = parse(line) else { continue };
        let actions = pods.entry(uid.to_owned()).or_default();
        match happened {
            Happened::Began(action) => drop(actions.entry(action.to_owned()).or_insert((at, None))),
            Happened::Ended(action) => {
                if let Some((_, end)) = actions.get_mut(action) {
                    end.get_or_insert(at);
                }
            }
        }
    }
    pods
}

#[derive(Debug, PartialEq)]
enum Happened<'a> {
    Began(&'a str),
    Ended(&'a str),
}

/// `TIME DEBUG run{pod=NS/NAME uid=UID}: TARGET: start action=…` or `…: event event=…`.
fn parse(line: &str) -> Option<(u64, &str, Happened<'_>)> {
    let (time, rest) = line.split_once(' ')?;
    let (_, after_uid) = rest.split_once(" uid=")?;
    let (uid, said) = after_uid.split_once('}')?;
    let happened = if let Some((_, action)) = said.split_once(": start action=") {
        Happened::Began(action.split(' ').next()?)
    } else {
        let (_, event) = said.split_once(": event event=")?;
        let name = event.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        let action = match name {
            "VolumesMade" => "volumes",
            "SandboxCreated" => "sandbox",
            "NetworkAttached" => "network",
            "ImageEnsured" => "image",
            "ContainerStarted" => "start",
            _ => return None,
        };
        Happened::Ended(action)
    };
    Some((micros(time)?, uid, happened))
}

/// RFC 3339 as microseconds since the epoch.
pub(crate) fn micros(time: &str) -> Option<u64> {
    u64::try_from(time.parse::<Timestamp>().ok()?.as_microsecond()).ok()
}

/// Milliseconds of each of [`STAGES`] and [`BESIDE`] for one pod; `None` when a time is missing.
pub(crate) fn split(client: &Value, actions: &Actions) -> Option<(Vec<f64>, Vec<f64>)> {
    let told = |key: &str| client[key].as_u64();
    let ended = |name: &str| actions.get(name)?.1;
    let first = actions.values().map(|(began, _)| *began).min()?;
    let marks = [
        told("created")?,
        told("committed")?,
        told("bound")?,
        first,
        ended("sandbox")?,
        ended("network")?,
        actions.get("start")?.0,
        ended("start")?,
        told("ready")?,
    ];
    let mut pieces = Vec::new();
    let mut at = marks[0];
    for mark in &marks[1..] {
        // A watch may tell of a thing after the next one has begun: no piece is negative, none is counted twice.
        pieces.push(milliseconds(mark.saturating_sub(at)));
        at = at.max(*mark);
    }
    let whole = |name: &str| Some((actions.get(name)?.0, ended(name)?));
    let byte = micros(client["first_line"].as_str()?.split(' ').next()?)?;
    let beside = [whole("volumes")?, whole("image")?, (actions.get("start")?.0, byte)];
    Some((pieces, beside.map(|(from, to)| milliseconds(to.saturating_sub(from))).into()))
}

#[expect(clippy::cast_precision_loss, reason = "differences of microseconds are far below 2^53")]
pub(crate) fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LOG: &str = "\
2026-01-01T00:00:00.010000Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: start action=volumes
2026-01-01T00:00:00.010100Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: start action=sandbox
2026-01-01T00:00:00.010200Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: start action=image x for main
2026-01-01T00:00:00.011000Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: event event=VolumesMade(Ok(V))
2026-01-01T00:00:00.011200Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: event event=ImageEnsured { container: \"main\" }
2026-01-01T00:00:00.014000Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: event event=SandboxCreated(Ok(None))
2026-01-01T00:00:00.014000Z  INFO something else uid=u1
2026-01-01T00:00:00.014100Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: start action=network
2026-01-01T00:00:00.020000Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: event event=NetworkAttached(Ok(10.0.0.1))
2026-01-01T00:00:00.020500Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: start action=start main#0
2026-01-01T00:00:00.040500Z DEBUG run{pod=bench/a uid=u1}: orlop::worker::pod_worker: event event=ContainerStarted { container: \"main\" }
";

    fn client(ready_ms: u64, first_line: &str) -> Value {
        let at = |ms: u64| micros("2026-01-01T00:00:00Z").unwrap() + ms * 1000;
        json!({
            "created": at(0), "committed": at(3), "bound": at(8), "ready": at(ready_ms), "first_line": first_line,
        })
    }

    #[test]
    fn the_pieces_add_up_to_the_whole() {
        let pods = actions(LOG);
        let client = client(45, "2026-01-01T00:00:00.039500123Z stdout F serves");
        let (pieces, beside) = split(&client, &pods["u1"]).unwrap();
        assert_eq!(pieces, [3.0, 5.0, 2.0, 4.0, 6.0, 0.5, 20.0, 4.5]);
        assert_eq!(pieces.len(), STAGES.len());
        assert_eq!(beside, [1.0, 1.0, 19.0]);
        assert_eq!(beside.len(), BESIDE.len());
        assert!((pieces.iter().sum::<f64>() - 45.0).abs() < 1e-9);
    }

    #[test]
    fn a_watch_that_speaks_late_makes_no_piece_negative() {
        let pods = actions(LOG);
        let mut late = client(45, "2026-01-01T00:00:01Z stdout F late");
        late["bound"] = (micros("2026-01-01T00:00:00.012Z").unwrap()).into();
        let (pieces, _) = split(&late, &pods["u1"]).unwrap();
        assert_eq!(pieces, [3.0, 9.0, 0.0, 2.0, 6.0, 0.5, 20.0, 4.5]);
    }

    #[test]
    fn missing_times_are_said() {
        assert_eq!(split(&client(45, "2026-01-01T00:00:00Z"), &Actions::new()), None);
        assert_eq!(split(&client(45, ""), &actions(LOG)["u1"]), None);
        assert_eq!(parse("panic: no time"), None);
    }
}
