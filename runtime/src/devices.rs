//! Which devices a container may touch: words of v1's devices controller, and a program of the cgroup2 hierarchy. Pure.
//!
//! v2 has no such controller. The program is attached in both cases: a container that may make device nodes (CAP_MKNOD
//! is in the default set) must not open them.

use serde::{Deserialize, Serialize};

use crate::spec::DeviceNode;

/// Letters of the kernel's `BPF_DEVCG_ACC_*`.
const MKNOD: u32 = 1;
const LETTERS: [(char, u32); 3] = [('r', 2), ('w', 4), ('m', MKNOD)];
const ALL: u32 = 7;
const BLOCK: u32 = 1;
const CHAR: u32 = 2;

/// One thing that is allowed: kind, access, major and minor number; `None` is any number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule(u32, u32, Option<u32>, Option<u32>);

impl Rule {
    /// For one device. `None`: its permissions are no letters of `r`, `w` and `m`, or its kind is none.
    pub(crate) fn of(node: &DeviceNode, permissions: &str) -> Option<Rule> {
        let kind = match node.kind {
            'c' => CHAR,
            'b' => BLOCK,
            _ => return None,
        };
        let bit = |letter| LETTERS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| bit);
        let access = permissions.chars().map(bit).try_fold(0, |all, bit| Some(all | bit?))?;
        (access != 0).then_some(Rule(kind, access, Some(node.major), Some(node.minor)))
    }
}

/// What every container gets (null, zero, full, tty, random, urandom, console, ptmx, terminals), and making nodes.
const DEFAULT: [Rule; 11] = [
    Rule(CHAR, MKNOD, None, None),
    Rule(BLOCK, MKNOD, None, None),
    Rule(CHAR, ALL, Some(1), Some(3)),
    Rule(CHAR, ALL, Some(1), Some(5)),
    Rule(CHAR, ALL, Some(1), Some(7)),
    Rule(CHAR, ALL, Some(5), Some(0)),
    Rule(CHAR, ALL, Some(1), Some(8)),
    Rule(CHAR, ALL, Some(1), Some(9)),
    Rule(CHAR, ALL, Some(5), Some(1)),
    Rule(CHAR, ALL, Some(5), Some(2)),
    Rule(CHAR, ALL, Some(136), None),
];

/// Files of v1's devices controller and what is written to them. `more` is allowed besides the usual.
pub(crate) fn v1(privileged: bool, more: &[Rule]) -> Vec<(&'static str, String)> {
    let all = "a *:* rwm".to_owned();
    if privileged {
        return vec![("devices.allow", all)];
    }
    let number = |number: &Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let rule = |Rule(kind, access, major, minor): &Rule| {
        let kind = if *kind == BLOCK { 'b' } else { 'c' };
        let letters = LETTERS.iter().filter(|(_, bit)| access & bit != 0);
        let access: String = letters.map(|(letter, _)| letter).collect();
        ("devices.allow", format!("{kind} {}:{} {access}", number(major), number(minor)))
    };
    [("devices.deny", all)].into_iter().chain(DEFAULT.iter().chain(more).map(rule)).collect()
}

// Registers: 1 context, 2 type, 3 access, 4 major, 5 minor.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
    // On little-endian machines the destination is the low half of the second byte.
    let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    [code, registers, a, b, c, d, e, f]
}

/// The program, as instructions of eight bytes: 1 for allowed, 0 for not. `more` is allowed besides the usual.
pub(crate) fn program(more: &[Rule]) -> Vec<[u8; 8]> {
    let mut out = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND_IMMEDIATE, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for Rule(kind, access, major, minor) in DEFAULT.iter().chain(more) {
        // Each test of (register, mask, value) goes on when it holds, and else to the next rule.
        let mut tests = vec![(2, None, *kind)];
        if *access != ALL {
            tests.push((3, Some(!access), 0));
        }
        tests.extend(major.map(|major| (4, None, major)));
        tests.extend(minor.map(|minor| (5, None, minor)));
        let mut block: Vec<[u8; 8]> =
            vec![instruction(MOVE_IMMEDIATE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)];
        for (register, mask, value) in tests.into_iter().rev() {
            let miss = i16::try_from(block.len()).unwrap_or(i16::MAX);
            let mut test = Vec::new();
            let compared = match mask {
                Some(mask) => {
                    test.push(instruction(MOVE, 0, register, 0, 0));
                    test.push(instruction(AND_IMMEDIATE, 0, 0, 0, mask));
                    0
                }
                None => register,
            };
            test.push(instruction(JUMP_NOT_EQUAL, compared, 0, miss, value));
            test.append(&mut block);
            block = test;
        }
        out.extend(block);
    }
    out.extend([instruction(MOVE_IMMEDIATE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &[[u8; 8]], access: u32, kind: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut r = [0_u64; 11];
        let mut pc = 0;
        loop {
            let [code, registers, a, b, c, d, e, f] = program[pc];
            let (dst, src) = (usize::from(registers & 15), usize::from(registers >> 4));
            let (offset, k) = (i16::from_ne_bytes([a, b]), u32::from_ne_bytes([c, d, e, f]));
            let signed = i64::from(k.cast_signed()).cast_unsigned();
            pc += 1;
            match code {
                LOAD_WORD => r[dst] = u64::from(context[usize::try_from(offset).unwrap() / 4]),
                MOVE => r[dst] = r[src],
                MOVE_IMMEDIATE => r[dst] = signed,
                AND_IMMEDIATE => r[dst] &= signed,
                SHIFT_RIGHT => r[dst] >>= k,
                JUMP_NOT_EQUAL => pc += if r[dst] == signed { 0 } else { usize::try_from(offset).unwrap() },
                EXIT => return r[0],
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn both_say_the_same() {
        let words =
            v1(false, &[]).into_iter().map(|(file, value)| format!("{file} {value}")).collect::<Vec<_>>();
        expect_test::expect![[r#"
            devices.deny a *:* rwm
            devices.allow c *:* m
            devices.allow b *:* m
            devices.allow c 1:3 rwm
            devices.allow c 1:5 rwm
            devices.allow c 1:7 rwm
            devices.allow c 5:0 rwm
            devices.allow c 1:8 rwm
            devices.allow c 1:9 rwm
            devices.allow c 5:1 rwm
            devices.allow c 5:2 rwm
            devices.allow c 136:* rwm"#]]
        .assert_eq(&words.join("\n"));
        assert_eq!(v1(true, &[]), [("devices.allow", "a *:* rwm".to_owned())]);
    }

    #[test]
    fn a_device_is_allowed_what_it_is_given_for() {
        let node = |kind, major, minor| {
            let path = "/dev/x".into();
            DeviceNode { path, kind, major, minor, mode: 0o600, uid: 0, gid: 0 }
        };
        let more = [("r", 'c', 10, 229), ("mrw", 'b', 7, 3)]
            .map(|(access, kind, major, minor)| Rule::of(&node(kind, major, minor), access).unwrap());
        let words = v1(false, &more);
        let last: Vec<_> = words.iter().rev().take(2).map(|(_, value)| value.as_str()).collect();
        assert_eq!(last, ["b 7:3 rwm", "c 10:229 r"]);
        let program = program(&more);
        for (access, kind, major, minor, expected) in [
            (2, CHAR, 10, 229, 1),
            (4, CHAR, 10, 229, 0),
            (6, CHAR, 10, 229, 0),
            (2, CHAR, 10, 228, 0),
            (2, BLOCK, 10, 229, 0),
            (6, BLOCK, 7, 3, 1),
            (7, BLOCK, 7, 3, 1),
            (2, BLOCK, 7, 4, 0),
            (6, CHAR, 1, 3, 1),
        ] {
            assert_eq!(
                run(&program, access, kind, major, minor),
                expected,
                "{access} {kind} {major}:{minor}"
            );
        }
        for wrong in ["", "x", "rx"] {
            assert_eq!(Rule::of(&node('c', 1, 1), wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn making_nodes_is_allowed_and_opening_only_the_usual_ones() {
        for (access, kind, major, minor, expected) in [
            (2, CHAR, 1, 3, 1),
            (6, CHAR, 1, 9, 1),
            (6, CHAR, 136, 77, 1),
            (6, CHAR, 5, 2, 1),
            (1, BLOCK, 8, 0, 1),
            (2, BLOCK, 8, 0, 0),
            (3, BLOCK, 8, 0, 0),
            (2, CHAR, 1, 1, 0),
            (2, CHAR, 1, 11, 0),
            (2, BLOCK, 1, 3, 0),
            (6, CHAR, 10, 229, 0),
        ] {
            assert_eq!(
                run(&program(&[]), access, kind, major, minor),
                expected,
                "{access} {kind} {major}:{minor}"
            );
        }
    }
}
