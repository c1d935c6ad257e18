//! Filters are run by a small interpreter: what counts is what the kernel would decide.

use super::{
    bpf::program,
    fuzz::run,
    profile::{Action, Condition, Op, Profile, Rule},
    syscalls::Arch,
};
use crate::spec::capabilities::{Capabilities, DEFAULT};

fn word(result: u32) -> String {
    match result {
        0x7fff_0000 => "allow".to_owned(),
        0x8000_0000 => "kill".to_owned(),
        other if other >> 16 == 5 => format!("errno {}", other & 0xffff),
        other => format!("{other:#x}"),
    }
}

fn check(capabilities: Capabilities, arch: Arch, name: &str, args: [u64; 6], expected: &str) {
    let program = program(&Profile::runtime_default(capabilities).unwrap(), &[Arch::X86_64, Arch::X86]);
    let number = arch.calls().find(|(known, _)| *known == name).map(|(_, number)| number).unwrap();
    let found = word(run(&program, arch.audit(), number, args));
    assert_eq!(found, expected, "{name}{args:?} on {arch:?}");
}

fn first(value: u64) -> [u64; 6] {
    [value, 0, 0, 0, 0, 0]
}

#[test]
fn ordinary_calls_pass_and_the_rest_fails() {
    for arch in [Arch::X86_64, Arch::X86] {
        for name in ["read", "write", "execve", "exit_group", "capset", "futex", "openat2", "mseal"] {
            check(DEFAULT, arch, name, first(0), "allow");
        }
        for name in ["mount", "reboot", "init_module", "bpf", "unshare", "setns", "keyctl", "swapon"] {
            check(DEFAULT, arch, name, first(0), "errno 1");
        }
        check(DEFAULT, arch, "clone3", first(0), "errno 38");
    }
}

#[test]
fn arguments_decide_with_all_their_bits() {
    check(DEFAULT, Arch::X86_64, "clone", first(0x11), "allow");
    check(DEFAULT, Arch::X86_64, "clone", first(0x1000_0000), "errno 1");
    check(DEFAULT, Arch::X86_64, "clone", first(0x1_0000_0000), "allow");
    check(DEFAULT, Arch::X86_64, "socket", first(2), "allow");
    check(DEFAULT, Arch::X86_64, "socket", first(40), "errno 1");
    check(DEFAULT, Arch::X86_64, "personality", first(0x20008), "allow");
    check(DEFAULT, Arch::X86_64, "personality", first(0xffff_ffff), "allow");
    check(DEFAULT, Arch::X86_64, "personality", first(0x0040_0000), "errno 1");
    check(DEFAULT, Arch::X86_64, "personality", first(0x1_0000_0008), "errno 1");
}

#[test]
fn capabilities_open_what_belongs_to_them() {
    let admin = DEFAULT.with("SYS_ADMIN");
    for name in ["mount", "clone3", "unshare", "bpf"] {
        check(admin, Arch::X86_64, name, first(0), "allow");
    }
    check(admin, Arch::X86_64, "clone", first(0x1000_0000), "allow");
    check(DEFAULT.with("SYS_TIME"), Arch::X86_64, "clock_settime", first(0), "allow");
    check(Capabilities(0), Arch::X86_64, "chroot", first(0), "errno 1");
    check(DEFAULT, Arch::X86_64, "chroot", first(0), "allow");
}

#[test]
fn other_architectures_and_x32_get_nowhere() {
    let program = program(&Profile::runtime_default(DEFAULT).unwrap(), &[Arch::X86_64, Arch::X86]);
    assert_eq!(word(run(&program, Arch::Aarch64.audit(), 0, first(0))), "kill");
    assert_eq!(word(run(&program, Arch::X86_64.audit(), 0x4000_0000, first(0))), "errno 38");
    assert_eq!(word(run(&program, Arch::X86_64.audit(), 5000, first(0))), "errno 1");
    assert!(program.len() < 400, "{} instructions", program.len());
}

#[test]
fn every_call_is_decided_as_its_rules_say() {
    let profile = Profile::runtime_default(DEFAULT).unwrap();
    for arch in [Arch::X86_64, Arch::X86, Arch::Aarch64] {
        let program = program(&profile, &[arch]);
        for (name, number) in arch.calls() {
            let mine = |rule: &&Rule| {
                rule.names.iter().any(|n| n == name) && rule.arch.is_none_or(|only| only == arch)
            };
            let free = profile.rules.iter().filter(mine).any(|r| r.conditions.is_empty());
            let none = !profile.rules.iter().any(|rule| mine(&rule));
            let found = word(run(&program, arch.audit(), number, first(0x7e02_0028)));
            if none {
                assert_eq!(found, "errno 1", "{name} on {arch:?}");
            } else if free && name != "clone3" {
                assert_eq!(found, "allow", "{name} on {arch:?}");
            }
        }
    }
}

#[test]
fn every_name_of_our_profile_is_a_call_somewhere() {
    let profile = Profile::runtime_default(Capabilities::all(40)).unwrap();
    let arches = [Arch::X86_64, Arch::X86, Arch::Aarch64];
    for name in profile.rules.iter().flat_map(|rule| &rule.names) {
        assert!(arches.iter().any(|arch| arch.calls().any(|(known, _)| known == name)), "{name}");
    }
}

#[test]
fn comparisons_are_of_unsigned_64_bit_numbers() {
    let edge = 0x5_0000_0005;
    let values = [0, 5, edge - 1, edge, edge + 1, 0x6_0000_0000, 0x4_ffff_ffff, u64::MAX];
    type Meaning = fn(u64, u64) -> bool;
    let ops: [(Op, Meaning); 7] = [
        (Op::Eq, |a, b| a == b),
        (Op::Ne, |a, b| a != b),
        (Op::Lt, |a, b| a < b),
        (Op::Le, |a, b| a <= b),
        (Op::Gt, |a, b| a > b),
        (Op::Ge, |a, b| a >= b),
        (Op::Masked(0x7_0000_0007), |a, b| a & 0x7_0000_0007 == b),
    ];
    for (op, expected) in ops {
        let condition = Condition { arg: 1, op, value: edge };
        let also = Condition { arg: 0, op: Op::Eq, value: 1 };
        let rule = Rule {
            names: vec!["read".into()],
            action: Action::Allow,
            conditions: vec![condition, also],
            arch: None,
        };
        let profile = Profile { default: Action::Errno(1), rules: vec![rule] };
        let program = program(&profile, &[Arch::X86_64]);
        for value in values {
            for other in [0, 1] {
                let found = word(run(&program, Arch::X86_64.audit(), 0, [other, value, 0, 0, 0, 0]));
                let expected = if expected(value, edge) && other == 1 { "allow" } else { "errno 1" };
                assert_eq!(found, expected, "{op:?} {value:#x} {other}");
            }
        }
    }
}

#[test]
fn docker_profiles_are_resolved_for_the_capabilities() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["mkdir","chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
        {"name":"reboot","action":"SCMP_ACT_KILL_PROCESS","excludes":{"caps":["CAP_SYS_BOOT"]}},
        {"names":["personality"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":255,"valueTwo":8,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
    let decide = |capabilities, number, arg| {
        let profile = Profile::from_json(json, capabilities).unwrap();
        word(run(&program(&profile, &[Arch::X86_64]), Arch::X86_64.audit(), number, first(arg)))
    };
    assert_eq!(decide(DEFAULT, 83, 0), "errno 13");
    assert_eq!(decide(DEFAULT, 0, 0), "allow");
    assert_eq!(decide(DEFAULT, 169, 0), "kill");
    assert_eq!(decide(DEFAULT.with("SYS_BOOT"), 169, 0), "allow");
    assert_eq!(decide(DEFAULT, 135, 0x108), "errno 1");
    assert_eq!(decide(DEFAULT, 135, 0x107), "allow");
    let twice = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
        {"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#;
    let profile = Profile::from_json(twice, DEFAULT).unwrap();
    let program = program(&profile, &[Arch::X86_64]);
    let decisions = [0, 8, 9].map(|arg| word(run(&program, Arch::X86_64.audit(), 135, first(arg))));
    assert_eq!(decisions, ["allow", "allow", "errno 1"], "several conditions on one argument: any of them");
    for bad in ["{}", "no", r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#] {
        assert!(Profile::from_json(bad, DEFAULT).is_err(), "{bad}");
    }
}
