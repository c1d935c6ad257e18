//! What of a rule set is kube-proxy's, from `iptables-save`, and the `iptables-restore --noflush` script that removes it.
//!
//! Its chains go, and the jumps that it puts into the kernel's own chains. All else stays, the kubelet's chains too. A chain
//! of its that somebody else's rule leads to stays as well, with what it needs.
//!
//! The kernel tracks connections, and so goes on translating those under way, only while some rule asks it to: a chain of
//! ours that nothing leads to holds it to that.

use std::collections::{BTreeMap, BTreeSet};

/// What removes our own chain again: a script, if it is there.
///
/// # Errors
/// When the text is no rule set.
pub fn uninstall(saved: &str) -> Result<Option<String>, Unreadable> {
    let tables = parse(saved)?;
    let holding = tables.iter().filter(|table| table.chains.contains_key(KEEPER));
    let script: String =
        holding.map(|table| format!("*{}\n:{KEEPER} - [0:0]\n-X {KEEPER}\nCOMMIT\n", table.name)).collect();
    Ok((!script.is_empty()).then_some(script))
}

/// What is to be done in one table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// The table.
    pub table: String,
    /// Input of `iptables-restore --noflush`; empty if there is nothing to do.
    pub script: String,
    /// Chains of kube-proxy's that stay, and why.
    pub kept: BTreeMap<String, String>,
}

/// What is not a rule set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not understood in a rule set: {line:?}")]
pub struct Unreadable {
    /// The line.
    pub line: String,
}

/// The chain that keeps the kernel tracking connections.
pub const KEEPER: &str = "ORLOP-ESTABLISHED";

/// Chains by their names: of all modes, and of earlier versions.
const CHAINS: [&str; 15] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    POSTROUTING,
    MARK_MASQ,
    FORWARD,
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-SOURCE-RANGES-FIREWALL",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
];
/// Chains of which there is one per service port or endpoint.
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];
/// Chains that kube-proxy does not jump to from the kernel's: whoever does is somebody else.
const INNER: [&str; 2] = [MARK_MASQ, "KUBE-LOAD-BALANCER"];
const MARK_MASQ: &str = "KUBE-MARK-MASQ";
const POSTROUTING: &str = "KUBE-POSTROUTING";
const FORWARD: &str = "KUBE-FORWARD";

/// Options whose value may look like anything.
const TEXTS: [&str; 9] = [
    "--comment",
    "--log-prefix",
    "--nflog-prefix",
    "--string",
    "--hex-string",
    "--name",
    "--hashlimit-name",
    "--helper",
    "--path",
];

fn is_own(chain: &str) -> bool {
    let suffix = PREFIXES.iter().find_map(|prefix| chain.strip_prefix(prefix));
    CHAINS.contains(&chain) || suffix.is_some_and(|suffix| !suffix.is_empty())
}

#[derive(Debug, Default)]
struct Table {
    name: String,
    /// The kernel's own have a policy.
    chains: BTreeMap<String, Option<String>>,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    chain: String,
    target: Option<String>,
    /// From the name of the chain on.
    text: String,
}

/// A plan for each table that has anything of kube-proxy's.
///
/// # Errors
/// When the text is no rule set: then nothing of it should be touched.
pub fn plan(saved: &str) -> Result<Vec<Plan>, Unreadable> {
    let tables = parse(saved)?;
    let plans = tables.iter().map(|table| table.plan());
    plans.filter(|plan| plan.as_ref().map_or(true, |plan| *plan != Plan::default())).collect()
}

impl Table {
    fn plan(&self) -> Result<Plan, Unreadable> {
        let own: BTreeSet<&str> =
            self.chains.keys().map(String::as_str).filter(|chain| is_own(chain)).collect();
        if own.is_empty() {
            return Ok(Plan::default());
        }
        let kept = self.kept(&own);
        let jumps = self.rules.iter().filter(|rule| {
            let to = rule.target.as_deref().unwrap_or_default();
            let stays = kept.contains_key(to) && (to == POSTROUTING || to == FORWARD);
            self.is_kernels(&rule.chain) && own.contains(to) && !INNER.contains(&to) && !stays
        });
        let jumps: Vec<_> = jumps.collect();
        if let Some(rule) = jumps.iter().find(|rule| rule.text.contains('\n')) {
            // The script's lines end where that one does.
            return Err(Unreadable { line: rule.text.clone() });
        }
        let removed: Vec<_> = own.iter().filter(|chain| !kept.contains_key(**chain)).collect();
        let mut script = String::new();
        if !removed.is_empty() || !jumps.is_empty() {
            let emptied = removed.iter().map(|chain| format!(":{chain} - [0:0]\n"));
            let unlinked = jumps.iter().map(|rule| format!("-D {}\n", rule.text));
            let deleted = removed.iter().map(|chain| format!("-X {chain}\n"));
            let body: String = emptied.chain(unlinked).chain(deleted).collect();
            let keeper = match self.name.as_str() {
                "nat" => {
                    format!(":{KEEPER} - [0:0]\n-A {KEEPER} -m conntrack --ctstate ESTABLISHED -j RETURN\n")
                }
                _ => String::new(),
            };
            script = format!("*{}\n{keeper}{body}COMMIT\n", self.name);
        }
        Ok(Plan { table: self.name.clone(), script, kept })
    }

    fn is_kernels(&self, chain: &str) -> bool {
        matches!(self.chains.get(chain), Some(Some(_)))
    }

    /// What somebody else's rules lead to, with all that leads on to, and what running connections need.
    fn kept(&self, own: &BTreeSet<&str>) -> BTreeMap<String, String> {
        let mut kept = BTreeMap::new();
        let mut more = Vec::new();
        for rule in self.rules.iter().filter(|rule| !own.contains(rule.chain.as_str())) {
            let Some(to) = rule.target.as_deref().filter(|to| own.contains(to)) else { continue };
            if !self.is_kernels(&rule.chain) || INNER.contains(&to) {
                more.push((to, format!("a rule of {} leads to it", rule.chain)));
            }
        }
        let dropping = matches!(self.chains.get("FORWARD"), Some(Some(policy)) if policy == "DROP");
        if dropping && own.contains(FORWARD) {
            more.push((
                FORWARD,
                "the policy of FORWARD is DROP, and connections under way pass by it".to_owned(),
            ));
        }
        while let Some((chain, why)) = more.pop() {
            if kept.contains_key(chain) {
                continue;
            }
            let inner = self.rules.iter().filter(|rule| rule.chain == chain);
            let next = inner.filter_map(|rule| rule.target.as_deref()).filter(|to| own.contains(to));
            more.extend(next.map(|to| (to, format!("{chain} leads to it"))));
            if chain == MARK_MASQ && own.contains(POSTROUTING) {
                more.push((POSTROUTING, format!("what {MARK_MASQ} marks is masqueraded there")));
            }
            kept.insert(chain.to_owned(), why);
        }
        kept
    }
}

fn parse(saved: &str) -> Result<Vec<Table>, Unreadable> {
    let mut tables: Vec<Table> = Vec::new();
    let mut open = false;
    for line in lines(saved) {
        let unreadable = || Unreadable { line: line.to_owned() };
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('*').filter(|_| !open) {
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
                return Err(unreadable());
            }
            tables.push(Table { name: name.to_owned(), ..Table::default() });
            open = true;
            continue;
        }
        let table = tables.last_mut().filter(|_| open).ok_or_else(unreadable)?;
        if line == "COMMIT" {
            open = false;
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { return Err(unreadable()) };
            table.chains.insert(name.to_owned(), (policy != "-").then(|| policy.to_owned()));
        } else if let Some(text) = line.strip_prefix("-A ") {
            let words = words(text).ok_or_else(unreadable)?;
            let chain = words.first().ok_or_else(unreadable)?.clone();
            table.rules.push(Rule { chain, target: target(&words), text: text.to_owned() });
        } else {
            return Err(unreadable());
        }
    }
    match open {
        false => Ok(tables),
        true => Err(Unreadable { line: "(the end comes before COMMIT)".to_owned() }),
    }
}

/// Where a rule leads.
fn target(words: &[String]) -> Option<String> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-j" | "--jump" | "-g" | "--goto" => return words.next().cloned(),
            text if TEXTS.contains(&text) => drop(words.next()),
            _ => {}
        }
    }
    None
}

/// Lines; one ends where it ends outside of quotes, for a comment may hold anything.
fn lines(text: &str) -> Vec<&str> {
    let (mut lines, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    let mut comment = false;
    for (at, byte) in text.bytes().enumerate() {
        if at == start {
            comment = byte == b'#';
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !comment => quoted = !quoted,
            b'\n' if !quoted => {
                lines.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    lines.push(&text[start..]);
    lines
}

/// The words of a rule, without their quotes; `None` if one is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(chars.next()?),
            ' ' if !quoted => words.extend(word.take()),
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests;
