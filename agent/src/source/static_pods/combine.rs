//! All files together: which pods there are, and which files cannot be used beside the others.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;

use super::{manifest::Set, objects::OfPods};
use crate::pod::desired::pod_ref;

/// What is known of each file, by name.
pub(super) type Files = BTreeMap<String, Entry>;

/// What is known of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entry {
    /// Of its content, when it was last read.
    pub(super) digest: Option<String>,
    /// What it said when it last was good.
    pub(super) set: Option<Set>,
    /// What is wrong with what it says now.
    pub(super) problem: Option<String>,
    /// The problem that was told.
    pub(super) told: Option<String>,
}

/// The static pods of the node.
#[derive(Debug, Default)]
pub(super) struct Combined {
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) objects: OfPods,
    /// By file.
    pub(super) problems: BTreeMap<String, String>,
}

/// Where two files have a pod of one name, the first one has it, and the other is not used at all.
pub(super) fn combine(files: &Files) -> Combined {
    let mut all = Combined::default();
    let mut names = HashMap::new();
    for (file, entry) in files {
        if let Some(problem) = &entry.problem {
            all.problems.insert(file.clone(), problem.clone());
        }
        let Some(set) = &entry.set else { continue };
        let keys = set.pods.iter().flat_map(|pod| {
            let pod = pod_ref(pod);
            [format!("{}/{}", pod.namespace, pod.name), format!("uid {}", pod.uid)]
        });
        let keys: Vec<_> = keys.collect();
        if let Some((key, other)) = keys.iter().find_map(|key| Some((key, names.get(key)?))) {
            all.problems.insert(file.clone(), format!("pod {key} is in {other} too"));
            continue;
        }
        names.extend(keys.into_iter().map(|key| (key, file.clone())));
        all.objects.extend(set.pods.iter().map(|pod| (pod_ref(pod).uid, Arc::clone(&set.objects))));
        all.pods.extend(set.pods.iter().cloned());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(uid_and_name: &str, problem: Option<&str>) -> Entry {
        let (uid, name) = uid_and_name.split_once(' ').unwrap();
        let mut pod = Pod::default();
        (pod.metadata.uid, pod.metadata.name) = (Some(uid.into()), Some(name.into()));
        let set = Set { pods: vec![Arc::new(pod)], objects: Arc::default() };
        Entry { digest: None, set: Some(set), problem: problem.map(Into::into), told: None }
    }

    #[test]
    fn the_first_file_has_the_name() {
        let files = [("a", entry("1 web", None)), ("b", entry("2 web", None)), ("c", entry("3 db", None))];
        let all = combine(&files.map(|(file, entry)| (file.to_owned(), entry)).into());
        let names: Vec<_> = all.pods.iter().map(|pod| pod_ref(pod).uid).collect();
        assert_eq!(names, ["1", "3"]);
        assert_eq!(all.problems, BTreeMap::from([("b".into(), "pod /web is in a too".into())]));
        assert_eq!(all.objects.len(), 2);
    }

    #[test]
    fn a_file_that_became_bad_keeps_its_pods() {
        let all = combine(&BTreeMap::from([("a".to_owned(), entry("1 web", Some("half of it")))]));
        assert_eq!((all.pods.len(), &*all.problems["a"]), (1, "half of it"));
    }
}
