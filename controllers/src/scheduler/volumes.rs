//! [pure] Volumes of pods: which nodes reach them, and what is to be bound once a node is chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::object::{Key, annotation, is_deleting, labels, name};
use crate::volume::{SELECTED_NODE, claim_class, is_bound, matching, protect, provision, waits_for_consumer};

/// What is bound for a pod when it gets its node.
#[derive(Debug, Clone)]
pub(super) enum Binding {
    /// A volume that is there is promised to the claim.
    Promise(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// A volume is made on the node.
    Provision(Arc<PersistentVolumeClaim>),
    /// Somebody has begun already.
    Await(Arc<PersistentVolumeClaim>),
}

impl Binding {
    pub(super) fn claim(&self) -> &Arc<PersistentVolumeClaim> {
        match self {
            Binding::Promise(claim, _) | Binding::Provision(claim) | Binding::Await(claim) => claim,
        }
    }
}

/// The volumes of one pod.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// By claim; nothing where a claim is bound to what is not there.
    bound: Vec<Option<Arc<PersistentVolume>>>,
    delayed: Vec<Arc<PersistentVolumeClaim>>,
}

const ELSEWHERE: &str = "node(s) had volume node affinity conflict";
const NONE_TO_BIND: &str = "node(s) didn't find available persistent volumes to bind";
const GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// All claims, volumes and classes.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    claims: BTreeMap<Key, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: BTreeMap<String, Arc<StorageClass>>,
    /// Volumes promised by placements that are under way, and to which claim.
    promised: BTreeMap<String, Key>,
}

impl Volumes {
    pub(super) fn claim(
        &mut self,
        old: Option<&PersistentVolumeClaim>,
        new: Option<Arc<PersistentVolumeClaim>>,
    ) {
        if let Some(claim) = new {
            let key = Key::of(&claim.metadata);
            if is_bound(&claim) {
                self.promised.retain(|_, promised| *promised != key);
            }
            self.claims.insert(key, claim);
        } else if let Some(claim) = old {
            let key = Key::of(&claim.metadata);
            self.promised.retain(|_, promised| *promised != key);
            self.claims.remove(&key);
        }
    }

    pub(super) fn volume(&mut self, old: Option<&PersistentVolume>, new: Option<Arc<PersistentVolume>>) {
        match (old, new) {
            (_, Some(volume)) => drop(self.volumes.insert(name(&volume.metadata).to_owned(), volume)),
            (Some(volume), None) => drop(self.volumes.remove(name(&volume.metadata))),
            (None, None) => {}
        }
    }

    pub(super) fn class(&mut self, old: Option<&StorageClass>, new: Option<Arc<StorageClass>>) {
        match (old, new) {
            (_, Some(class)) => drop(self.classes.insert(name(&class.metadata).to_owned(), class)),
            (Some(class), None) => drop(self.classes.remove(name(&class.metadata))),
            (None, None) => {}
        }
    }

    /// What a pod needs, or why no node can have it yet.
    pub(super) fn needs(&self, pod: &Pod) -> Result<Needs, String> {
        let mut needs = Needs::default();
        for key in protect::claims_of(pod) {
            let claim = &key.name;
            let Some(found) = self.claims.get(&key) else {
                return Err(format!("persistentvolumeclaim \"{claim}\" not found"));
            };
            if is_deleting(&found.metadata) {
                return Err(format!("persistentvolumeclaim \"{claim}\" is being deleted"));
            }
            if is_bound(found) {
                let volume = found.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
                needs.bound.push(volume.and_then(|volume| self.volumes.get(volume)).cloned());
            } else if self.classes.get(claim_class(found)).is_some_and(|class| waits_for_consumer(class)) {
                needs.delayed.push(Arc::clone(found));
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        Ok(needs)
    }

    /// What would be bound on this node, or why it cannot have the pod.
    pub(super) fn check(&self, needs: &Needs, node: &Node) -> Result<Vec<Binding>, &'static str> {
        for volume in &needs.bound {
            let volume = volume.as_ref().ok_or(GONE)?;
            if !matching::reaches(volume, node) {
                return Err(ELSEWHERE);
            }
        }
        let mut taken: Vec<String> = Vec::new();
        let mut bindings = Vec::new();
        for claim in &needs.delayed {
            let binding = self.bind(claim, node, &taken)?;
            if let Binding::Promise(_, volume) = &binding {
                taken.push(name(&volume.metadata).to_owned());
            }
            bindings.push(binding);
        }
        Ok(bindings)
    }

    fn bind(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        node: &Node,
        taken: &[String],
    ) -> Result<Binding, &'static str> {
        match annotation(&claim.metadata, SELECTED_NODE) {
            Some(selected) if selected == name(&node.metadata) => {
                return Ok(Binding::Await(Arc::clone(claim)));
            }
            Some(_) => return Err(ELSEWHERE),
            None => {}
        }
        let key = Key::of(&claim.metadata);
        let free = |volume: &&Arc<PersistentVolume>| {
            let volume = name(&volume.metadata);
            self.promised.get(volume).is_none_or(|promised| *promised == key)
                && !taken.iter().any(|taken| taken == volume)
        };
        let volumes: Vec<_> = self.volumes.values().filter(free).cloned().collect();
        if let Some(volume) = matching::best(claim, &volumes, Some(node), false)
            && matching::reaches(&volume, node)
        {
            return Ok(Binding::Promise(Arc::clone(claim), volume));
        }
        let class = self.classes.get(claim_class(claim));
        if class.is_some_and(|class| !is_allowed(class, node)) {
            return Err(NONE_TO_BIND);
        }
        match class.map(|class| class.provisioner.as_str()).unwrap_or_default() {
            provision::NAME if !provision::serves(node) => Err(NONE_TO_BIND),
            other if other.is_empty() || other.starts_with("kubernetes.io/") => Err(NONE_TO_BIND),
            _ => Ok(Binding::Provision(Arc::clone(claim))),
        }
    }

    /// A placement begins: its volumes are nobody else's.
    pub(super) fn promise(&mut self, bindings: &[Binding]) {
        for binding in bindings {
            if let Binding::Promise(claim, volume) = binding {
                self.promised.insert(name(&volume.metadata).to_owned(), Key::of(&claim.metadata));
            }
        }
    }

    /// A placement came to nothing.
    pub(super) fn take_back(&mut self, bindings: &[Binding]) {
        for binding in bindings {
            let key = Key::of(&binding.claim().metadata);
            self.promised.retain(|_, promised| *promised != key);
        }
    }
}

/// Whether volumes of a class may be made for a node (`allowedTopologies`).
fn is_allowed(class: &StorageClass, node: &Node) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    let labels = labels(&node.metadata);
    terms.is_empty()
        || terms.iter().any(|term| {
            term.match_label_expressions
                .iter()
                .flatten()
                .all(|wanted| labels.get(&wanted.key).is_some_and(|value| wanted.values.contains(value)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    const CLASSES: &[&str] = &[
        "{metadata: {name: orlop-local}, provisioner: orlop.dev/local, volumeBindingMode: WaitForFirstConsumer}",
        "{metadata: {name: static}, provisioner: kubernetes.io/no-provisioner, volumeBindingMode: WaitForFirstConsumer}",
        "{metadata: {name: now}, provisioner: example.org/x}",
        "{metadata: {name: there}, provisioner: example.org/x, volumeBindingMode: WaitForFirstConsumer, allowedTopologies: [{matchLabelExpressions: [{key: n, values: [n2, n3]}]}]}",
    ];

    fn world(claim: &str, volume: &str) -> Volumes {
        let mut volumes = Volumes::default();
        for class in CLASSES {
            volumes.class(None, Some(Arc::new(yaml(class))));
        }
        let text =
            |kind: &str, more: &str| format!("{{metadata: {{name: {kind}, namespace: ns, uid: u}}, {more}}}");
        if !claim.is_empty() {
            volumes.claim(None, Some(Arc::new(yaml(&text("data", claim)))));
        }
        if !volume.is_empty() {
            volumes.volume(None, Some(Arc::new(yaml(&text("pv", volume).replace("namespace: ns, ", "")))));
        }
        volumes
    }

    /// A pod that uses the claim `data` → why not, or for the nodes n1 (with a provisioner) and n2, what is bound.
    fn check(claim: &str, volume: &str, expected: &[&str]) {
        let volumes = world(claim, volume);
        let pod: Pod = yaml(
            "{metadata: {name: p, namespace: ns}, spec: {containers: [], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}",
        );
        let nodes = [
            "{metadata: {name: n1, annotations: {orlop.dev/local-volumes: /s}, labels: {n: n1}}}",
            "{metadata: {name: n2, labels: {n: n2}}}",
        ];
        let found: Vec<String> = match volumes.needs(&pod) {
            Err(why) => vec![why],
            Ok(needs) => nodes
                .iter()
                .map(|node| match volumes.check(&needs, &yaml(node)) {
                    Err(why) => why.to_owned(),
                    Ok(bindings) => {
                        let show = |binding: &Binding| match binding {
                            Binding::Promise(_, volume) => name(&volume.metadata).to_owned(),
                            Binding::Provision(_) => "make".to_owned(),
                            Binding::Await(_) => "await".to_owned(),
                        };
                        bindings.iter().map(show).collect::<Vec<_>>().join(" ")
                    }
                })
                .collect(),
        };
        assert_eq!(found, expected, "{claim} {volume}");
    }

    const ON_N2: &str = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: n, operator: In, values: [n2]}]}]}}";

    #[test]
    fn pods_wait_for_their_claims() {
        check("", "", &["persistentvolumeclaim \"data\" not found"]);
        let unbound = "pod has unbound immediate PersistentVolumeClaims";
        check("spec: {}, status: {phase: Pending}", "", &[unbound]);
        check("spec: {storageClassName: now}, status: {phase: Pending}", "", &[unbound]);
    }

    #[test]
    fn a_bound_volume_says_where_the_pod_can_be() {
        let claim = "spec: {volumeName: pv}, status: {phase: Bound}";
        let bound = format!("{claim}, kind: PersistentVolumeClaim");
        let bound = bound.as_str();
        check(bound, &format!("spec: {{{ON_N2}}}"), &[ELSEWHERE, ""]);
        check(bound, "spec: {}", &["", ""]);
        check(bound, "", &[GONE, GONE]);
    }

    #[test]
    fn volumes_are_chosen_or_made_where_the_pod_goes() {
        let claim = |class: &str| {
            format!(
                "spec: {{storageClassName: {class}, accessModes: [ReadWriteOnce]}}, status: {{phase: Pending}}"
            )
        };
        check(&claim("orlop-local"), "", &["make", NONE_TO_BIND]);
        check(&claim("there"), "", &[NONE_TO_BIND, "make"]);
        let volume = |class: &str| {
            format!(
                "spec: {{storageClassName: {class}, accessModes: [ReadWriteOnce], capacity: {{storage: 1Gi}}, {ON_N2}}}, status: {{phase: Available}}"
            )
        };
        check(&claim("static"), &volume("static"), &[NONE_TO_BIND, "pv"]);
        check(&claim("static"), &volume("other"), &[NONE_TO_BIND, NONE_TO_BIND]);
    }

    #[test]
    fn a_volume_is_promised_once() {
        let claim =
            "spec: {storageClassName: static, accessModes: [ReadWriteOnce]}, status: {phase: Pending}";
        let volume = "spec: {storageClassName: static, accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}, status: {phase: Available}";
        let mut volumes = world(claim, volume);
        let other: Arc<PersistentVolumeClaim> =
            Arc::new(yaml(&format!("{{metadata: {{name: other, namespace: ns, uid: o}}, {claim}}}")));
        let needs = Needs { bound: Vec::new(), delayed: vec![Arc::clone(&other)] };
        let node = yaml("{metadata: {name: n1}}");
        let mine = Needs { bound: Vec::new(), delayed: volumes.claims.values().cloned().collect() };
        let bindings = volumes.check(&mine, &node).unwrap();
        volumes.promise(&bindings);
        assert_eq!(volumes.check(&needs, &node).unwrap_err(), NONE_TO_BIND);
        volumes.take_back(&bindings);
        assert_eq!(volumes.check(&needs, &node).unwrap().len(), 1);
    }
}
