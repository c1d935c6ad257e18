//! [pure] What all plans of EndpointSlices share: the labels, the writes, and that few of them are made.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};

use crate::object::{labels, name};

pub(crate) const SERVICE: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// When what a slice is about changed.
pub(crate) const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// One write.
#[derive(Debug)]
pub(crate) enum Write {
    Create(Box<EndpointSlice>),
    Replace(Box<EndpointSlice>),
    Delete(Arc<EndpointSlice>),
}

/// Whether the slice is that controller's.
pub(crate) fn is_managed_by(slice: &EndpointSlice, manager: &str) -> bool {
    labels(&slice.metadata).get(MANAGED_BY).is_some_and(|by| by == manager)
}

/// Those of a family, in order of their names.
pub(crate) fn of_family<'a>(known: &'a [Arc<EndpointSlice>], family: &str) -> Vec<&'a Arc<EndpointSlice>> {
    let mut known: Vec<_> = known.iter().filter(|slice| slice.address_type == family).collect();
    known.sort_by_key(|slice| name(&slice.metadata).to_owned());
    known
}

/// Whether a slice has these ports; an empty name and no name are the same.
pub(crate) fn has_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    let own = slice
        .ports
        .iter()
        .flatten()
        .map(|port| EndpointPort { name: Some(port.name.clone().unwrap_or_default()), ..port.clone() });
    own.eq(ports.iter().cloned())
}

/// A slice that would go takes the content of one that would come: one write, and no moment with both or none. All are of
/// one family, which a slice cannot change.
pub(crate) fn reuse(writes: Vec<Write>, take: impl Fn(&mut EndpointSlice, EndpointSlice)) -> Vec<Write> {
    let (mut doomed, mut kept) = (VecDeque::new(), Vec::new());
    for write in writes {
        match write {
            Write::Delete(slice) => doomed.push_back(slice),
            other => kept.push(other),
        }
    }
    let turn = |write| match write {
        Write::Create(new) => match doomed.pop_front() {
            Some(old) => {
                let mut slice = Arc::unwrap_or_clone(old);
                take(&mut slice, *new);
                Write::Replace(Box::new(slice))
            }
            None => Write::Create(new),
        },
        other => other,
    };
    let mut writes: Vec<_> = kept.into_iter().map(turn).collect();
    writes.extend(doomed.into_iter().map(Write::Delete));
    writes
}
