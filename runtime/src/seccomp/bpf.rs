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
    let mut code = Code::default();
    let mut next = code.done(Action::KillProcess);
    for arch in arches.iter().rev() {
        // What a section shares is within reach of most of it.
        code.ends.clear();
        let here = section(&mut code, profile, *arch);
        next = code.decide(JUMP_EQ, arch.audit(), here, next);
    }
    code.push((LOAD, 0, 0, ARCH));
    code.reversed.reverse();
    code.reversed
}

/// A program as it grows, from its end to its beginning: all jumps of BPF lead forward.
#[derive(Default)]
struct Code {
    reversed: Vec<Instruction>,
    /// Where each outcome is: few, and most of a program leads to one of them.
    ends: BTreeMap<u32, Label>,
}

/// An instruction: how many there are from it to the end.
type Label = usize;

impl Code {
    fn push(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        self.reversed.len()
    }

    /// How far it is from the next instruction that is pushed.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - to
    }

    fn done(&mut self, action: Action) -> Label {
        let value = value(action);
        match self.ends.get(&value) {
            // With room for a jump more.
            Some(label) if self.distance(*label) < usize::from(u8::MAX) => *label,
            _ => {
                let label = self.push((RETURN, 0, 0, value));
                self.ends.insert(value, label);
                label
            }
        }
    }

    /// What is pushed next goes on there.
    fn go_to(&mut self, label: Label) -> Label {
        match u32::try_from(self.distance(label)).unwrap_or(u32::MAX) {
            0 => label,
            distance => self.push((JUMP, 0, 0, distance)),
        }
    }

    /// Conditional jumps have eight bits: what is farther away is reached by a jump that has more.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) < usize::from(u8::MAX) {
            return label;
        }
        self.go_to(label)
    }

    fn decide(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.near(yes);
        let no = self.near(no);
        let offset = |label| u8::try_from(self.distance(label)).unwrap_or(u8::MAX);
        let instruction = (code, offset(yes), offset(no), k);
        self.push(instruction)
    }

    /// The same after loading a part of an argument.
    fn decide_on(&mut self, at: u32, code: u16, k: u32, (yes, no): (Label, Label)) -> Label {
        self.decide(code, k, yes, no);
        self.push((LOAD, 0, 0, at))
    }
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

fn section(code: &mut Code, profile: &Profile, arch: Arch) -> Label {
    let mut intervals = intervals(profile, arch);
    if arch == Arch::X86_64 {
        intervals.retain(|(start, _)| *start < X32_BIT);
        intervals.push((X32_BIT, Outcome::Always(Action::Errno(ENOSYS))));
    }
    let search = search(code, &intervals, profile.default);
    code.go_to(search);
    code.push((LOAD, 0, 0, NUMBER))
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

fn search(code: &mut Code, intervals: &[(u32, Outcome)], default: Action) -> Label {
    match intervals {
        [] => code.done(default),
        [(_, Outcome::Always(action))] => code.done(*action),
        [(_, Outcome::Depends(alternatives))] => leaf(code, alternatives, default),
        _ => {
            let (left, right) = intervals.split_at(intervals.len() / 2);
            let yes = search(code, right, default);
            let no = search(code, left, default);
            code.decide(JUMP_GE, right[0].0, yes, no)
        }
    }
}

fn leaf(code: &mut Code, alternatives: &[(Vec<Condition>, Action)], default: Action) -> Label {
    let mut miss = code.done(default);
    for (conditions, action) in alternatives.iter().rev() {
        let mut hit = code.done(*action);
        for condition in conditions.iter().rev() {
            hit = test(code, condition, hit, miss);
        }
        miss = hit;
    }
    miss
}

/// Arguments have 64 bits: the upper half (at the higher address, on little-endian) decides first.
fn test(code: &mut Code, condition: &Condition, hit: Label, miss: Label) -> Label {
    let low = ARGS + 8 * u32::from(condition.arg);
    let high = low + 4;
    let (k_low, k_high) = halves(condition.value);
    let equal = |code: &mut Code, hit, miss| {
        let lower = code.decide_on(low, JUMP_EQ, k_low, (hit, miss));
        code.decide_on(high, JUMP_EQ, k_high, (lower, miss))
    };
    let mut ordered = |comparison, hit, miss| {
        let lower = code.decide_on(low, comparison, k_low, (hit, miss));
        let not_greater = code.decide(JUMP_EQ, k_high, lower, miss);
        code.decide_on(high, JUMP_GT, k_high, (hit, not_greater))
    };
    match condition.op {
        Op::Gt => ordered(JUMP_GT, hit, miss),
        Op::Ge => ordered(JUMP_GE, hit, miss),
        Op::Le => ordered(JUMP_GT, miss, hit),
        Op::Lt => ordered(JUMP_GE, miss, hit),
        Op::Eq => equal(code, hit, miss),
        Op::Ne => equal(code, miss, hit),
        Op::Masked(mask) => {
            let (m_low, m_high) = halves(mask);
            code.decide(JUMP_EQ, k_low, hit, miss);
            code.push((AND, 0, 0, m_low));
            let lower = code.push((LOAD, 0, 0, low));
            code.decide(JUMP_EQ, k_high, lower, miss);
            code.push((AND, 0, 0, m_high));
            code.push((LOAD, 0, 0, high))
        }
    }
}

pub(super) fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}
