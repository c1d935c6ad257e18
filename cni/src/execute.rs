//! Runs a plan's steps through a seam, and reverts exactly the done ones when a step fails.

use crate::plan::{self, LinkOp};

/// Where steps have their effect: the kernel, or the fake below.
pub(crate) trait Links {
    /// What a failed step reports.
    type Error;
    /// Brings about what the step is named after.
    fn apply(&mut self, op: &LinkOp) -> Result<(), Self::Error>;
    /// Takes it back.
    fn revert(&mut self, op: &LinkOp) -> Result<(), Self::Error>;
}

/// A plan that did not go through.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed<E> {
    /// The step that failed.
    pub op: LinkOp,
    /// Why.
    pub source: E,
    /// Steps that could not be reverted either.
    pub left: Vec<(LinkOp, E)>,
}

/// Applies all steps; after a failure, everything done is undone and every failure to do so is reported.
pub(crate) fn execute<L: Links>(ops: &[LinkOp], links: &mut L) -> Result<(), Failed<L::Error>> {
    for (position, op) in ops.iter().enumerate() {
        if let Err(source) = links.apply(op) {
            let left = revert_all(&plan::undo(&ops[..position]), links);
            return Err(Failed { op: op.clone(), source, left });
        }
    }
    Ok(())
}

fn revert_all<L: Links>(ops: &[LinkOp], links: &mut L) -> Vec<(LinkOp, L::Error)> {
    ops.iter().filter_map(|op| links.revert(op).err().map(|error| (op.clone(), error))).collect()
}

#[cfg(test)]
pub(crate) mod fake {
    //! Links that only remember what was done to them.

    use super::Links;
    use crate::plan::LinkOp;

    /// Remembers; fails at one step if told so.
    #[derive(Default)]
    pub(crate) struct FakeLinks {
        /// What is in effect.
        pub(crate) effects: Vec<LinkOp>,
        /// `apply` fails when it is asked for the step with this number.
        pub(crate) fail_at: Option<usize>,
        /// `revert` always fails.
        pub(crate) stuck: bool,
        pub(crate) applied: usize,
    }

    impl Links for FakeLinks {
        type Error = &'static str;

        fn apply(&mut self, op: &LinkOp) -> Result<(), Self::Error> {
            if self.fail_at == Some(self.applied) {
                return Err("refused");
            }
            self.applied += 1;
            self.effects.push(op.clone());
            Ok(())
        }

        fn revert(&mut self, op: &LinkOp) -> Result<(), Self::Error> {
            if self.stuck {
                return Err("stuck");
            }
            match op {
                LinkOp::CreatePair { .. } => {
                    // The kernel drops whatever was configured on a link together with it.
                    self.effects.retain(|e| matches!(e, LinkOp::DeletePair { .. } | LinkOp::LoopbackUp));
                }
                _ => self.effects.retain(|e| e != op),
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fake::FakeLinks, *};
    use crate::plan::{LinkState, PodLink, plan};

    fn fresh() -> Vec<LinkOp> {
        plan(
            &PodLink::new("u1", vec![[10, 244, 0, 2].into(), "fd00::2".parse().unwrap()], 1500),
            &LinkState::default(),
        )
        .unwrap()
    }

    #[test]
    fn a_failure_at_any_step_leaves_nothing() {
        for position in 0..fresh().len() {
            let mut links = FakeLinks { fail_at: Some(position), ..FakeLinks::default() };
            let failed = execute(&fresh(), &mut links).unwrap_err();
            assert_eq!(failed.op, fresh()[position]);
            assert_eq!(links.effects, [], "failed at {}", failed.op);
        }
    }

    #[test]
    fn every_step_that_cannot_be_reverted_is_reported() {
        let mut links = FakeLinks { fail_at: Some(fresh().len() - 1), stuck: true, ..FakeLinks::default() };
        let failed = execute(&fresh(), &mut links).unwrap_err();
        let left: Vec<_> = failed.left.iter().map(|(op, _)| op.to_string()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
