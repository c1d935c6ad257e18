//! The images of this node, apart from pulling them for pods: removing what nobody needs, importing what lies in a
//! directory, how fast pulls may follow each other.

pub mod collect;
pub mod import;
pub mod rate;
