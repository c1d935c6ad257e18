//! Any text as a profile: refused, or compiled to a program that the kernel takes and that decides as the rules say.
//! Not part of the product.

use super::{
    bpf::{self, Instruction},
    profile::{Action, Condition, Op, Profile, Rule},
    syscalls::Arch,
};
use crate::spec::capabilities::DEFAULT;

/// Bytes of `struct seccomp_data`, all that a filter may load.
const DATA: u32 = 64;

/// A profile that is taken compiles to what it says.
pub fn profile(text: &str) {
    let Ok(profile) = Profile::from_json(text, DEFAULT) else { return };
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64] {
        if bpf::compile(&profile, &[arch]).is_err() {
            continue;
        }
        let program = bpf::program(&profile, &[arch]);
        is_taken_by_the_kernel(&program);
        let calls = arch.calls().filter(|(name, _)| profile.rules.iter().any(|rule| names(rule, name)));
        for (name, number) in calls.take(3) {
            for args in arguments(&profile, name) {
                let decided = run(&program, arch.audit(), number, args);
                assert_eq!(
                    decided,
                    bpf::value(expected(&profile, name, args)),
                    "{name} {args:x?} on {arch:?}"
                );
            }
        }
    }
}

fn names(rule: &Rule, name: &str) -> bool {
    rule.names.iter().any(|known| known == name)
}

/// The first rule that fits.
fn expected(profile: &Profile, name: &str, args: [u64; 6]) -> Action {
    let fits =
        |rule: &&Rule| names(rule, name) && rule.conditions.iter().all(|condition| holds(condition, args));
    profile.rules.iter().find(fits).map_or(profile.default, |rule| rule.action)
}

fn holds(Condition { arg, op, value }: &Condition, args: [u64; 6]) -> bool {
    let found = args[usize::from(*arg)];
    match op {
        Op::Eq => found == *value,
        Op::Ne => found != *value,
        Op::Lt => found < *value,
        Op::Le => found <= *value,
        Op::Gt => found > *value,
        Op::Ge => found >= *value,
        Op::Masked(mask) => found & mask == *value,
    }
}

/// Values around those that the rules of a call compare with.
fn arguments(profile: &Profile, name: &str) -> Vec<[u64; 6]> {
    let conditions = profile.rules.iter().filter(|rule| names(rule, name)).flat_map(|rule| &rule.conditions);
    let mut exact = [0; 6];
    let mut found = vec![exact, [u64::MAX; 6]];
    for Condition { arg, value, .. } in conditions.take(8) {
        exact[usize::from(*arg)] = *value;
        for near in [value.wrapping_sub(1), *value, value.wrapping_add(1), value ^ 1 << 32] {
            let mut args = exact;
            args[usize::from(*arg)] = near;
            found.push(args);
        }
    }
    found
}

/// The checks of `bpf_check_classic` and `seccomp_check_filter`, as far as our instructions go.
fn is_taken_by_the_kernel(program: &[Instruction]) {
    assert!((1..=4096).contains(&program.len()));
    for (at, (code, jt, jf, k)) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match code {
            0x20 => assert!(*k < DATA && k % 4 == 0, "load {k}"),
            0x05 => assert!((*k as usize) < left, "jump {k} of {left}"),
            0x15 | 0x25 | 0x35 => assert!(usize::from(*jt.max(jf)) < left, "jump {jt} {jf} of {left}"),
            0x54 | 0x06 => {}
            other => panic!("code {other:#x}"),
        }
    }
    assert_eq!(program.last().map(|(code, ..)| *code), Some(0x06));
}

/// What the kernel would decide.
pub(super) fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let words: Vec<u32> = [number, arch, 0, 0]
        .into_iter()
        .chain(args.into_iter().flat_map(|arg| {
            let (low, high) = bpf::halves(arg);
            [low, high]
        }))
        .collect();
    let (mut pc, mut a) = (0, 0_u32);
    loop {
        let (code, jt, jf, k) = program[pc];
        pc += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            0x20 => a = words[k as usize / 4],
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => pc += branch(a == k),
            0x25 => pc += branch(a > k),
            0x35 => pc += branch(a >= k),
            0x06 => return k,
            other => panic!("code {other:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn action() -> impl Strategy<Value = &'static str> {
        select(vec!["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "LOG", "TRAP"])
    }

    fn condition() -> impl Strategy<Value = String> {
        let op = select(vec!["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"]);
        let value = select(vec![0, 1, 8, 0xffff_ffff, 0x1_0000_0000, u64::MAX]);
        (0_u8..6, op, value, any::<u64>()).prop_map(|(index, op, value, two)| {
            format!(r#"{{"index":{index},"op":"SCMP_CMP_{op}","value":{value},"valueTwo":{two}}}"#)
        })
    }

    fn call() -> impl Strategy<Value = String> {
        let name = select(vec!["read", "write", "clone", "personality", "socket", "nonsense"]);
        (vec(name, 1..3), action(), vec(condition(), 0..90)).prop_map(|(names, action, conditions)| {
            format!(r#"{{"names":{names:?},"action":"SCMP_ACT_{action}","args":[{}]}}"#, conditions.join(","))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_filter_decides_as_its_profile_says(default in action(), calls in vec(call(), 0..5)) {
            profile(&format!(r#"{{"defaultAction":"SCMP_ACT_{default}","syscalls":[{}]}}"#, calls.join(",")));
        }

        #[test]
        fn any_text_is_a_profile_or_none(text in ".{0,100}") {
            profile(&text);
        }
    }
}
