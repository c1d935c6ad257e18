//! Our RuntimeDefault in the words of OCI, for runtimes that compile it themselves.

use orlop_runtime::{
    seccomp::{Action, Arch, Condition, Op, Profile, Rule},
    spec::capabilities::Capabilities,
};
use serde_json::{Value, json};

use crate::Result;

/// `linux.seccomp` with the architectures that our own filter has.
pub(crate) fn seccomp(capabilities: Capabilities) -> Result<Value> {
    let profile = Profile::runtime_default(capabilities)?;
    let native = |rule: &&Rule| rule.arch.is_none_or(|arch| Arch::NATIVE.contains(&arch));
    let calls: Vec<Value> = profile.rules.iter().filter(native).map(call).collect();
    let arches: Vec<&str> = Arch::NATIVE
        .iter()
        .map(|arch| match arch {
            Arch::X86_64 => "SCMP_ARCH_X86_64",
            Arch::X86 => "SCMP_ARCH_X86",
            Arch::Aarch64 => "SCMP_ARCH_AARCH64",
        })
        .collect();
    let (default, errno) = action(profile.default);
    Ok(json!({
        "defaultAction": default, "defaultErrnoRet": errno, "architectures": arches, "syscalls": calls,
    }))
}

fn call(rule: &Rule) -> Value {
    let (name, errno) = action(rule.action);
    let mut call = json!({ "names": rule.names, "action": name });
    if let Some(errno) = errno {
        call["errnoRet"] = errno.into();
    }
    if !rule.conditions.is_empty() {
        call["args"] = rule.conditions.iter().map(condition).collect();
    }
    call
}

fn action(action: Action) -> (&'static str, Option<u16>) {
    match action {
        Action::Allow => ("SCMP_ACT_ALLOW", None),
        Action::Errno(errno) => ("SCMP_ACT_ERRNO", Some(errno)),
        Action::Trap => ("SCMP_ACT_TRAP", None),
        Action::KillProcess => ("SCMP_ACT_KILL_PROCESS", None),
        Action::KillThread => ("SCMP_ACT_KILL_THREAD", None),
        Action::Log => ("SCMP_ACT_LOG", None),
    }
}

fn condition(Condition { arg, op, value }: &Condition) -> Value {
    let (op, value, second) = match op {
        Op::Eq => ("SCMP_CMP_EQ", *value, 0),
        Op::Ne => ("SCMP_CMP_NE", *value, 0),
        Op::Lt => ("SCMP_CMP_LT", *value, 0),
        Op::Le => ("SCMP_CMP_LE", *value, 0),
        Op::Gt => ("SCMP_CMP_GT", *value, 0),
        Op::Ge => ("SCMP_CMP_GE", *value, 0),
        Op::Masked(mask) => ("SCMP_CMP_MASKED_EQ", *mask, *value),
    };
    json!({ "index": arg, "op": op, "value": value, "valueTwo": second })
}
