//! Names of what is remembered, and of the files that hold it.

/// One thing that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Which one: namespace and name, or a UID and what tells several of it apart.
    pub name: Vec<String>,
}

/// What can be remembered; each has a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Pods of this node, as the API server had them last; by UID.
    Pod,
    /// What was last said of a pod; by UID.
    Status,
    /// ConfigMaps that pods of this node use.
    ConfigMap,
    /// Secrets likewise.
    Secret,
    /// Service-account tokens; by the pod's UID and a hash of the request.
    Token,
    /// Services of the cluster.
    Service,
    /// EndpointSlices of the cluster.
    EndpointSlice,
    /// Nodes of the cluster.
    Node,
    /// NetworkPolicies of the cluster.
    NetworkPolicy,
    /// Names and labels of the cluster's Namespaces, while there is a NetworkPolicy.
    Namespace,
    /// What NetworkPolicies find out about the cluster's pods, while there is one; by namespace and name.
    Peer,
    /// Of which kinds a list was seen; by directory.
    Listed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 12] = [
        Kind::Pod,
        Kind::Status,
        Kind::ConfigMap,
        Kind::Secret,
        Kind::Token,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Node,
        Kind::NetworkPolicy,
        Kind::Namespace,
        Kind::Peer,
        Kind::Listed,
    ];

    /// Name of its directory.
    #[must_use]
    pub fn dir(self) -> &'static str {
        match self {
            Kind::Pod => "pods",
            Kind::Status => "statuses",
            Kind::ConfigMap => "configmaps",
            Kind::Secret => "secrets",
            Kind::Token => "tokens",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::Node => "nodes",
            Kind::NetworkPolicy => "networkpolicies",
            Kind::Namespace => "namespaces",
            Kind::Peer => "peers",
            Kind::Listed => "listed",
        }
    }
}

impl Key {
    /// Something by its UID, or of the cluster by its name.
    #[must_use]
    pub fn one(kind: Kind, name: &str) -> Key {
        Key { kind, name: vec![name.to_owned()] }
    }

    /// Something with two names.
    #[must_use]
    pub fn two(kind: Kind, first: &str, second: &str) -> Key {
        Key { kind, name: vec![first.to_owned(), second.to_owned()] }
    }

    /// Name of the file: letters, digits, `-` and `.` as they are, everything else as `%XX`, parts joined by `_`.
    /// Whatever the API server calls an object, the file is inside the directory.
    #[must_use]
    pub fn file_name(&self) -> String {
        let parts: Vec<_> = self.name.iter().map(|part| escape(part)).collect();
        format!("{}.json", parts.join("_"))
    }

    /// The key of a file; `None` if it is none of ours.
    #[must_use]
    pub fn from_file_name(kind: Kind, file: &str) -> Option<Key> {
        let name = file.strip_suffix(".json")?.split('_').map(unescape).collect::<Option<Vec<_>>>()?;
        let key = Key { kind, name };
        (key.file_name() == file).then_some(key)
    }
}

fn escape(part: &str) -> String {
    let plain = |at: usize, byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || (byte == b'.' && at > 0)
    };
    let escaped = part.bytes().enumerate().map(|(at, byte)| match plain(at, byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

fn unescape(part: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first == b'%' {
            let (digits, more) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = more;
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_objects_are_names_of_files() {
        let name = |key: &Key| key.file_name();
        assert_eq!(name(&Key::two(Kind::ConfigMap, "kube-system", "a.b")), "kube-system_a.b.json");
        assert_eq!(name(&Key::one(Kind::Pod, "../../etc/x")), "%2E.%2F..%2Fetc%2Fx.json");
        assert_eq!(name(&Key::one(Kind::Pod, "A_b")), "%41%5Fb.json");
    }

    #[test]
    fn other_files_are_not_ours() {
        for file in ["x", "x.json.tmp", "%4.json", "A.json", ".json.json", "a%41%ZZ.json"] {
            assert_eq!(Key::from_file_name(Kind::Pod, file), None, "{file}");
        }
    }

    proptest! {
        #[test]
        fn any_name_comes_back(first in ".{0,20}", second in ".{0,20}") {
            let key = Key::two(Kind::Secret, &first, &second);
            let file = key.file_name();
            prop_assert!(!file.contains(['/', '\0']));
            prop_assert_eq!(Key::from_file_name(Kind::Secret, &file), Some(key));
        }
    }
}
