//! Pods of all sources as one: what the API server has for this node, and what its files say.
//!
//! Mirror pods, which show static pods in the API, are sorted out: they run nothing. Not for: reading either source.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use orlop_model::event::Event;

use super::{Heard, static_pods::manifest::SOURCE};

/// Marks a mirror pod; the value is the UID of the static pod it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// What is known of each source.
#[derive(Debug)]
pub struct Merge {
    /// Static pods by UID; `None` before the files were read.
    statics: Option<BTreeMap<String, Arc<Pod>>>,
    /// The API server's list, while it waits for the files.
    waiting: Option<Vec<Arc<Pod>>>,
    /// There is an API server to be heard before anything is taken for unknown.
    api: bool,
    /// Mirror pods by UID; `None` before the first list.
    mirrors: Option<BTreeMap<String, Arc<Pod>>>,
}

type Change = Event<Arc<Pod>>;

impl Merge {
    /// Which sources there are.
    #[must_use]
    pub fn new(api: bool, files: bool) -> Self {
        Self { statics: (!files).then(BTreeMap::new), waiting: None, api, mirrors: None }
    }

    /// The mirror pods there are; `None` before the first list.
    pub fn mirrors(&self) -> Option<Vec<Arc<Pod>>> {
        Some(self.mirrors.as_ref()?.values().cloned().collect())
    }

    /// The API server, or the memory of it, says something.
    pub fn api(&mut self, heard: Heard<Pod>) -> Vec<Change> {
        match heard {
            // Not a list: what is missing in it may well be wanted.
            Heard::Recalled(pods) => {
                pods.into_iter().filter(|pod| !is_mirror(pod)).map(|pod| Event::Apply(of_api(pod))).collect()
            }
            Heard::Event(Event::Reset(pods)) => {
                let (mirrors, pods): (Vec<_>, Vec<_>) = pods.into_iter().partition(is_mirror);
                self.mirrors = Some(mirrors.into_iter().map(|pod| (uid(&pod), pod)).collect());
                let pods = pods.into_iter().map(of_api).collect();
                match &self.statics {
                    Some(statics) => vec![reset(pods, statics)],
                    None => {
                        self.waiting = Some(pods);
                        Vec::new()
                    }
                }
            }
            Heard::Event(Event::Apply(pod)) if is_mirror(&pod) => {
                self.mirrors.get_or_insert_default().insert(uid(&pod), pod);
                Vec::new()
            }
            Heard::Event(Event::Delete(pod)) if is_mirror(&pod) => {
                self.mirrors.get_or_insert_default().remove(&uid(&pod));
                Vec::new()
            }
            Heard::Event(event) => match &mut self.waiting {
                None => vec![event.map(of_api)],
                Some(waiting) => {
                    // Between its list and the first look at the files.
                    let (Event::Apply(pod) | Event::Delete(pod)) = &event else { return Vec::new() };
                    waiting.retain(|known| uid(known) != uid(pod));
                    if let Event::Apply(pod) = event {
                        waiting.push(of_api(pod));
                    }
                    Vec::new()
                }
            },
        }
    }

    /// The files say that these are the static pods.
    pub fn files(&mut self, pods: Vec<Arc<Pod>>) -> Vec<Change> {
        let now: BTreeMap<_, _> = pods.into_iter().map(|pod| (uid(&pod), pod)).collect();
        let before = self.statics.replace(now.clone());
        match (before, self.waiting.take()) {
            (None, Some(of_api)) => vec![reset(of_api, &now)],
            (None, None) if !self.api => vec![reset(Vec::new(), &now)],
            (before, _) => {
                let before = before.unwrap_or_default();
                let gone = before.iter().filter(|(uid, _)| !now.contains_key(*uid));
                let gone = gone.map(|(_, pod)| Event::Delete(Arc::clone(pod)));
                let new = now.iter().filter(|(uid, _)| !before.contains_key(*uid));
                gone.chain(new.map(|(_, pod)| Event::Apply(Arc::clone(pod)))).collect()
            }
        }
    }

    /// The static pods there are.
    pub fn statics(&self) -> Vec<Arc<Pod>> {
        self.statics.iter().flat_map(BTreeMap::values).cloned().collect()
    }
}

fn reset(mut pods: Vec<Arc<Pod>>, statics: &BTreeMap<String, Arc<Pod>>) -> Change {
    pods.extend(statics.values().cloned());
    Event::Reset(pods)
}

fn uid(pod: &Arc<Pod>) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn is_mirror(pod: &Arc<Pod>) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// A pod of the API is one, whatever its annotations claim.
fn of_api(mut pod: Arc<Pod>) -> Arc<Pod> {
    if pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(SOURCE)) {
        let pod = Arc::make_mut(&mut pod);
        if let Some(annotations) = &mut pod.metadata.annotations {
            annotations.insert(SOURCE.to_owned(), "api".to_owned());
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn pod(uid: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        let (name, mirror) = match uid.split_once('@') {
            Some((name, of)) => (name, Some(of)),
            None => (uid, None),
        };
        pod.metadata.uid = Some(name.to_owned());
        let mirror = mirror.map(|of| (MIRROR.to_owned(), of.to_owned()));
        pod.metadata.annotations = mirror.map(|entry| BTreeMap::from([entry]));
        Arc::new(pod)
    }

    fn pods(uids: &str) -> Vec<Arc<Pod>> {
        uids.split_whitespace().map(pod).collect()
    }

    /// Lines of `api = a b` (a list), `api + a`, `api - a`, `memory a b`, `files a b`; what comes out, and the mirrors.
    fn check(mut merge: Merge, script: &str, expected: Expect) {
        let mut said = Vec::new();
        for line in script.lines().map(str::trim) {
            let (what, uids) = line.split_once(' ').unwrap_or((line, ""));
            let changes = match (what, uids.split_at_checked(1)) {
                ("files", _) => merge.files(pods(uids)),
                ("memory", _) => merge.api(Heard::Recalled(pods(uids))),
                ("api", Some(("=", uids))) => merge.api(Heard::Event(Event::Reset(pods(uids)))),
                ("api", Some(("+", uid))) => merge.api(Heard::Event(Event::Apply(pod(uid.trim())))),
                ("api", Some(("-", uid))) => merge.api(Heard::Event(Event::Delete(pod(uid.trim())))),
                other => panic!("{other:?}"),
            };
            let changes: Vec<_> = changes
                .iter()
                .map(|change| match change {
                    Event::Apply(pod) => format!("+{}", uid(pod)),
                    Event::Delete(pod) => format!("-{}", uid(pod)),
                    Event::Reset(pods) => format!("={}", pods.iter().map(uid).collect::<Vec<_>>().join(",")),
                })
                .collect();
            let mirrors =
                merge.mirrors().map(|mirrors| mirrors.iter().map(uid).collect::<Vec<_>>().join(","));
            said.push(format!("{line}: {} ({})", changes.join(" "), mirrors.as_deref().unwrap_or("?")));
        }
        expected.assert_eq(&said.join("\n"));
    }

    #[test]
    fn a_list_names_the_pods_of_all_sources() {
        check(
            Merge::new(true, true),
            "files s t\napi = a b\napi + c\nfiles t u\napi = c",
            expect![[r#"
            files s t: +s +t (?)
            api = a b: =a,b,s,t ()
            api + c: +c ()
            files t u: -s +u ()
            api = c: =c,t,u ()"#]],
        );
    }

    #[test]
    fn a_list_waits_for_the_files() {
        check(
            Merge::new(true, true),
            "api = a b\napi + c\napi - a\napi + b\nfiles s\napi + d",
            expect![[r#"
            api = a b:  ()
            api + c:  ()
            api - a:  ()
            api + b:  ()
            files s: =c,b,s ()
            api + d: +d ()"#]],
        );
    }

    #[test]
    fn without_files_nothing_waits() {
        check(Merge::new(true, false), "api = a", expect!["api = a: =a ()"]);
    }

    #[test]
    fn without_an_api_server_the_files_are_all_there_is() {
        check(
            Merge::new(false, true),
            "files s\nfiles\nfiles t",
            expect![[r#"
            files s: =s (?)
            files: -s (?)
            files t: +t (?)"#]],
        );
    }

    #[test]
    fn memory_takes_nothing_away() {
        check(
            Merge::new(true, true),
            "memory a m@s\nfiles s\napi = b",
            expect![[r#"
            memory a m@s: +a (?)
            files s: +s (?)
            api = b: =b,s ()"#]],
        );
    }

    #[test]
    fn mirrors_run_nothing() {
        check(
            Merge::new(true, true),
            "files s\napi = a m@s\napi + n@s\napi - m@s\napi - a",
            expect![[r#"
            files s: +s (?)
            api = a m@s: =a,s (m)
            api + n@s:  (m,n)
            api - m@s:  (n)
            api - a: -a (n)"#]],
        );
    }

    #[test]
    fn a_pod_of_the_api_cannot_say_that_it_is_static() {
        let mut pod = pod("a");
        Arc::make_mut(&mut pod).metadata.annotations =
            Some(BTreeMap::from([(SOURCE.to_owned(), "file".to_owned())]));
        let changes = Merge::new(true, false).api(Heard::Event(Event::Reset(vec![pod])));
        let [Event::Reset(pods)] = &changes[..] else { panic!("{changes:?}") };
        assert!(!crate::pod::desired::Desired::new(Arc::clone(&pods[0])).is_static());
    }
}
