//! Which system calls a container may use, as rules; ours from a text, an operator's from OCI/Docker JSON. Pure.

use serde::Deserialize;

use super::syscalls::Arch;
use crate::spec::capabilities::Capabilities;

/// What happens with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes through.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// SIGSYS.
    Trap,
    /// The process dies.
    KillProcess,
    /// The thread dies.
    KillThread,
    /// It goes through and is logged.
    Log,
}

/// Comparison of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
    /// Equal under this mask.
    Masked(u64),
}

/// One argument must compare so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// 0…5.
    pub arg: u8,
    /// How.
    pub op: Op,
    /// With what.
    pub value: u64,
}

/// Calls, and what happens when all conditions hold. Of several rules for a call the first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Calls by name.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// All of them.
    pub conditions: Vec<Condition>,
    /// Only there; `None` is everywhere.
    pub arch: Option<Arch>,
}

/// A whole profile, resolved for one set of capabilities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// For everything no rule fits.
    pub default: Action,
    /// In order.
    pub rules: Vec<Rule>,
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A line of our own text.
    #[error("line {0:?} of the profile")]
    Line(String),
    /// Not JSON, or not a profile.
    #[error("not a seccomp profile")]
    Json(#[from] serde_json::Error),
    /// An action or comparison we do not do.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl Profile {
    /// RuntimeDefault.
    pub fn runtime_default(capabilities: Capabilities) -> Result<Profile, ProfileError> {
        Profile::from_text(include_str!("default.profile"), capabilities)
    }

    /// Grammar: the head of `default.profile`.
    pub fn from_text(text: &str, capabilities: Capabilities) -> Result<Profile, ProfileError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let rules = lines
            .map(|line| text_rule(line, capabilities).ok_or_else(|| ProfileError::Line(line.to_owned())));
        let rules: Vec<Option<Rule>> = rules.collect::<Result<_, _>>()?;
        Ok(Profile { default: Action::Errno(1), rules: rules.into_iter().flatten().collect() })
    }

    /// The format of OCI and Docker, with `includes` and `excludes` resolved.
    pub fn from_json(text: &str, capabilities: Capabilities) -> Result<Profile, ProfileError> {
        let json: Json = serde_json::from_str(text)?;
        let mut rules = Vec::new();
        for call in json.syscalls {
            if call.applies(capabilities) {
                rules.extend(call.rules()?);
            }
        }
        Ok(Profile { default: action(&json.default_action, json.default_errno_ret)?, rules })
    }
}

/// `Some(None)`: understood, but not for these capabilities.
fn text_rule(line: &str, capabilities: Capabilities) -> Option<Option<Rule>> {
    let (head, names) = line.split_once(": ").or_else(|| line.split_once(' '))?;
    let names = names.split_whitespace().map(str::to_owned).collect();
    let words: Vec<&str> = head.split_whitespace().collect();
    let mut rule = Rule { names, action: Action::Allow, conditions: Vec::new(), arch: None };
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match words.as_slice() {
        ["allow"] => {}
        ["allow", "if", any @ ..] if !any.is_empty() => {
            if !any.iter().any(|name| capabilities.has(name)) {
                return Some(None);
            }
        }
        ["allow", "arch", arch] => {
            rule.arch = [Arch::X86_64, Arch::X86, Arch::Aarch64].into_iter().find(|a| a.name() == *arch);
            rule.arch?;
        }
        ["allow", "when", "arg", arg, op @ ("==" | "!="), value] => {
            let op = if *op == "==" { Op::Eq } else { Op::Ne };
            rule.conditions = vec![Condition { arg: arg.parse().ok()?, op, value: number(value)? }];
        }
        ["allow", "when", "arg", arg, "&", mask, "==", value] => {
            let op = Op::Masked(number(mask)?);
            rule.conditions = vec![Condition { arg: arg.parse().ok()?, op, value: number(value)? }];
        }
        ["errno", errno, "unless", capability] => {
            if capabilities.has(capability) {
                return Some(None);
            }
            rule.action = Action::Errno(errno.parse().ok()?);
        }
        _ => return None,
    }
    Some(Some(rule))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    syscalls: Vec<JsonCall>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonCall {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<JsonArg>>,
    #[serde(default)]
    includes: JsonFilter,
    #[serde(default)]
    excludes: JsonFilter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
struct JsonFilter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

impl JsonFilter {
    /// Docker's names of the architectures this program may be built for.
    fn has_native(&self) -> bool {
        let native = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        self.arches.iter().any(|arch| arch == native)
    }
}

impl JsonCall {
    fn applies(&self, capabilities: Capabilities) -> bool {
        let JsonCall { includes, excludes, .. } = self;
        let included = includes.caps.iter().all(|cap| capabilities.has(cap))
            && (includes.arches.is_empty() || includes.has_native());
        let excluded = excludes.caps.iter().any(|cap| capabilities.has(cap)) || excludes.has_native();
        included && !excluded
    }

    /// One rule whose conditions must all hold. Where several are about the same argument, each is a rule of its own, as
    /// runc reads it: libseccomp takes one comparison per argument.
    fn rules(self) -> Result<Vec<Rule>, ProfileError> {
        let mut names = self.names;
        if !self.name.is_empty() {
            names.push(self.name);
        }
        let action = action(&self.action, self.errno_ret)?;
        let conditions = self.args.unwrap_or_default().into_iter().map(JsonArg::condition);
        let conditions: Vec<Condition> = conditions.collect::<Result<_, _>>()?;
        let alternatives = if (0..6).any(|arg| conditions.iter().filter(|c| c.arg == arg).count() > 1) {
            conditions.into_iter().map(|condition| vec![condition]).collect()
        } else {
            vec![conditions]
        };
        let rule = |conditions| Rule { names: names.clone(), action, conditions, arch: None };
        Ok(alternatives.into_iter().map(rule).collect())
    }
}

impl JsonArg {
    fn condition(self) -> Result<Condition, ProfileError> {
        let op = match self.op.as_str() {
            "SCMP_CMP_EQ" => Op::Eq,
            "SCMP_CMP_NE" => Op::Ne,
            "SCMP_CMP_LT" => Op::Lt,
            "SCMP_CMP_LE" => Op::Le,
            "SCMP_CMP_GT" => Op::Gt,
            "SCMP_CMP_GE" => Op::Ge,
            "SCMP_CMP_MASKED_EQ" => Op::Masked(self.value),
            other => return Err(ProfileError::Unsupported(other.to_owned())),
        };
        if self.index > 5 {
            return Err(ProfileError::Unsupported(format!("argument {}", self.index)));
        }
        let value = if let Op::Masked(_) = op { self.value_two } else { self.value };
        Ok(Condition { arg: self.index, op, value })
    }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, ProfileError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(1)),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(ProfileError::Unsupported(other.to_owned())),
    })
}
