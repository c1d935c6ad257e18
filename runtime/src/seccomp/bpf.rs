//! A profile as a classic BPF program for seccomp. Pure.
//!
//! Per architecture the call numbers become intervals of equal outcome, found by binary search: some eight
//! comparisons per call, however long the profile. Conditions on arguments are checked at the leaves.

use std::collections::BTreeMap;

use super::{
    profile::{Action, Condition, Op, Profile, Rule},
    syscalls::Arch,
};

/// One instruction: code, jump if true, jump if false, operand (`struct sock_filter`).
pub(crate) type Instruction = (u16, u8, u8, u32);

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const JUMP_EQ: u16 = 0x15;
const JUMP_GT: u16 = 0x25;
const JUMP_GE: u16 = 0x35;
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;
const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u16 = 38;
/// What the kernel takes at most.
const MAX: usize = 4096;

/// The program would be longer than the kernel takes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter would have {0} instructions, more than the kernel takes")]
pub struct TooLong(usize);

/// What happens for a range of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Always(Action),
    Depends(Vec<(Vec<Condition>, Action)>),
}

/// Compiles for these architectures; calls of any other end the process.
pub(crate) fn compile(profile: &Profile, arches: &[Arch]) -> Result<Vec<u8>, TooLong> {
    let program = program(profile, arches);
    if program.len() > MAX {
        return Err(TooLong(program.len()));
    }
    let bytes = program.into_iter().flat_map(|(code, jt, jf, k)| {
        let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), k.to_ne_bytes());
        [a, b, jt, jf, c, d, e, f]
    });
    Ok(bytes.collect())
}

pub(crate) fn program(profile: &Profile, arches: &[Arch]) -> Vec<Instruction> {
    let mut out = vec![(LOAD, 0, 0, ARCH)];
    for arch in arches {
        let section = section(profile, *arch);
        out.push((JUMP_EQ, 1, 0, arch.audit()));
        out.push((JUMP, 0, 0, length(&section)));
        out.extend(section);
    }
    out.push((RETURN, 0, 0, value(Action::KillProcess)));
    out
}

fn length(block: &[Instruction]) -> u32 {
    u32::try_from(block.len()).unwrap_or(u32::MAX)
}

pub(super) fn value(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
        Action::Trap => 0x0003_0000,
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Log => 0x7ffc_0000,
    }
}

fn section(profile: &Profile, arch: Arch) -> Vec<Instruction> {
    let mut intervals = intervals(profile, arch);
    if arch == Arch::X86_64 {
        intervals.retain(|(start, _)| *start < X32_BIT);
        intervals.push((X32_BIT, Outcome::Always(Action::Errno(ENOSYS))));
    }
    let mut out = vec![(LOAD, 0, 0, NUMBER)];
    out.extend(search(&intervals, profile.default));
    out
}

/// Starts of intervals and what happens from there on, neighbours merged.
fn intervals(profile: &Profile, arch: Arch) -> Vec<(u32, Outcome)> {
    let mut rules: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in profile.rules.iter().filter(|rule| rule.arch.is_none_or(|only| only == arch)) {
        rule.names.iter().for_each(|name| rules.entry(name).or_default().push(rule));
    }
    let default = Outcome::Always(profile.default);
    let mut outcomes: BTreeMap<u32, Outcome> = BTreeMap::from([(0, default.clone())]);
    for (name, number) in arch.calls() {
        outcomes.entry(number + 1).or_insert(default.clone());
        outcomes.insert(number, rules.get(name).map_or(default.clone(), |rules| outcome(rules)));
    }
    let mut merged: Vec<(u32, Outcome)> = Vec::new();
    for (start, outcome) in outcomes {
        if merged.last().is_none_or(|(_, last)| *last != outcome) {
            merged.push((start, outcome));
        }
    }
    merged
}

/// A rule without conditions makes those after it pointless; one that allows, also those before it that allow.
fn outcome(rules: &[&Rule]) -> Outcome {
    let end = rules.iter().position(|rule| rule.conditions.is_empty());
    let list = &rules[..end.map_or(rules.len(), |end| end + 1)];
    match list {
        [.., last] if end.is_some() && list.iter().all(|rule| rule.action == last.action) => {
            Outcome::Always(last.action)
        }
        _ => Outcome::Depends(list.iter().map(|rule| (rule.conditions.clone(), rule.action)).collect()),
    }
}

fn search(intervals: &[(u32, Outcome)], default: Action) -> Vec<Instruction> {
    match intervals {
        [] => vec![(RETURN, 0, 0, value(default))],
        [(_, Outcome::Always(action))] => vec![(RETURN, 0, 0, value(*action))],
        [(_, Outcome::Depends(alternatives))] => leaf(alternatives, default),
        _ => {
            let (left, right) = intervals.split_at(intervals.len() / 2);
            let (start, left, right) = (right[0].0, search(left, default), search(right, default));
            let mut out = match u8::try_from(left.len()) {
                Ok(skip) => vec![(JUMP_GE, skip, 0, start)],
                Err(_) => vec![(JUMP_GE, 0, 1, start), (JUMP, 0, 0, length(&left))],
            };
            out.extend(left);
            out.extend(right);
            out
        }
    }
}

fn leaf(alternatives: &[(Vec<Condition>, Action)], default: Action) -> Vec<Instruction> {
    let mut out = Vec::new();
    for (conditions, action) in alternatives {
        // Built from the end: each condition falls through when it holds and else jumps behind this alternative.
        let mut block = vec![(RETURN, 0, 0, value(*action))];
        for condition in conditions.iter().rev() {
            let miss = u8::try_from(block.len()).unwrap_or(u8::MAX);
            let mut test = test(condition, miss);
            test.append(&mut block);
            block = test;
        }
        out.extend(block);
    }
    out.push((RETURN, 0, 0, value(default)));
    out
}

/// Code that falls through when the condition holds and else jumps over the `miss` instructions that follow it.
/// Arguments have 64 bits: the upper half (at the higher address, on little-endian) decides first.
fn test(condition: &Condition, miss: u8) -> Vec<Instruction> {
    let offset = ARGS + 8 * u32::from(condition.arg);
    let (low, high) = (offset, offset + 4);
    let (k_low, k_high) = halves(condition.value);
    let after = |skipped: u8| miss.saturating_add(skipped);
    match condition.op {
        Op::Eq => vec![
            (LOAD, 0, 0, high),
            (JUMP_EQ, 0, after(2), k_high),
            (LOAD, 0, 0, low),
            (JUMP_EQ, 0, after(0), k_low),
        ],
        Op::Ne => vec![
            (LOAD, 0, 0, high),
            (JUMP_EQ, 0, 2, k_high),
            (LOAD, 0, 0, low),
            (JUMP_EQ, after(0), 0, k_low),
        ],
        Op::Masked(mask) => {
            let (m_low, m_high) = halves(mask);
            vec![
                (LOAD, 0, 0, high),
                (AND, 0, 0, m_high),
                (JUMP_EQ, 0, after(3), k_high),
                (LOAD, 0, 0, low),
                (AND, 0, 0, m_low),
                (JUMP_EQ, 0, after(0), k_low),
            ]
        }
        Op::Gt => ordered((high, low), (k_high, k_low), JUMP_GT, false, miss),
        Op::Ge => ordered((high, low), (k_high, k_low), JUMP_GE, false, miss),
        Op::Le => ordered((high, low), (k_high, k_low), JUMP_GT, true, miss),
        Op::Lt => ordered((high, low), (k_high, k_low), JUMP_GE, true, miss),
    }
}

/// `code` compares the lower halves when the upper are equal; `not` turns the answer round.
fn ordered(at: (u32, u32), k: (u32, u32), code: u16, not: bool, miss: u8) -> Vec<Instruction> {
    let after = |skipped: u8| miss.saturating_add(skipped);
    let (greater, smaller) = if not { (after(3), 3) } else { (3, after(3)) };
    // After the load: greater → decided; equal → look at the lower half; else decided the other way.
    let (last_true, last_false) = if not { (after(0), 0) } else { (0, after(0)) };
    vec![
        (LOAD, 0, 0, at.0),
        (JUMP_GT, greater, 0, k.0),
        (JUMP_EQ, 0, smaller - 1, k.0),
        (LOAD, 0, 0, at.1),
        (code, last_true, last_false, k.1),
    ]
}

pub(super) fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
