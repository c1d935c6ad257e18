//! `CNI_ARGS`: words of the runtime about the container, `KEY=value;KEY=value`. Pure.

use std::collections::BTreeMap;

use super::{Code, Fault};

/// The keys that mean something here.
const KNOWN: [&str; 7] = [
    "IgnoreUnknown",
    "K8S_POD_NAMESPACE",
    "K8S_POD_NAME",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
    "IP",
    "MAC",
];
/// What `IgnoreUnknown` says yes with.
const YES: [&str; 4] = ["1", "true", "True", "TRUE"];

/// What was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Args<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Args<'a> {
    /// Keys that are not known are an error unless `IgnoreUnknown` says otherwise.
    pub(super) fn parse(text: &'a str) -> Result<Self, Fault> {
        let fault = |text: String| Fault::new(Code::InvalidEnvironment, text, "");
        let mut args = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let split = pair.split_once('=').filter(|(key, _)| !key.is_empty());
            let (key, value) = split.ok_or_else(|| fault(format!("CNI_ARGS: {pair:?} is no KEY=value")))?;
            args.insert(key, value);
        }
        let ignore = args.get("IgnoreUnknown").is_some_and(|value| YES.contains(value));
        let unknown: Vec<_> = args.keys().copied().filter(|key| !KNOWN.contains(key)).collect();
        if !ignore && !unknown.is_empty() {
            return Err(fault(format!("CNI_ARGS: unknown {}", unknown.join(", "))));
        }
        Ok(Self(args))
    }

    /// The value of a key that is not empty.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied().filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_words_are_refused_unless_the_runtime_says_to_ignore_them() {
        let parse = |text| Args::parse(text).map(|args| args.get("K8S_POD_NAME")).map_err(|fault| fault.msg);
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("K8S_POD_NAME=web;IP="), Ok(Some("web")));
        assert_eq!(parse("X=1;K8S_POD_NAME=web"), Err("CNI_ARGS: unknown X".into()));
        assert_eq!(parse("IgnoreUnknown=1;X=1;K8S_POD_NAME=a=b;"), Ok(Some("a=b")));
        assert_eq!(parse("IgnoreUnknown=0;X=1"), Err("CNI_ARGS: unknown X".into()));
        assert_eq!(parse("IgnoreUnknown=1;X"), Err("CNI_ARGS: \"X\" is no KEY=value".into()));
        assert_eq!(parse("=1"), Err("CNI_ARGS: \"=1\" is no KEY=value".into()));
    }
}
