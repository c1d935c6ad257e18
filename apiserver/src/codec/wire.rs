//! Field numbers of the built-in types: the part of protobuf that the type table does not say.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::LazyLock;

/// Made by `openapi/derive_wire.py`; see `openapi/NOTICE`.
static TABLE: &[u8] = include_bytes!("../../openapi/protobuf-wire.txt.gz");

/// What a field number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A field of that JSON name; `keep_zero`: a zero on the wire means something.
    Named { name: Span, keep_zero: bool },
    /// A message whose fields belong to the enclosing JSON object.
    Inline(Span),
}

/// A piece of [`WireTable::text`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

/// Per type, its fields by number.
#[derive(Debug, Default)]
pub(super) struct WireTable {
    text: Box<str>,
    entries: Vec<(u32, Entry)>,
    types: HashMap<Box<str>, (u32, u32)>,
}

impl WireTable {
    pub(super) fn builtin() -> &'static WireTable {
        static BUILTIN: LazyLock<WireTable> = LazyLock::new(|| {
            let mut text = String::with_capacity(70 << 10);
            let read = flate2::read::GzDecoder::new(TABLE).read_to_string(&mut text);
            debug_assert!(read.is_ok(), "the embedded wire table is a gzip file");
            WireTable::parse(text)
        });
        &BUILTIN
    }

    fn parse(text: String) -> WireTable {
        let mut table = WireTable { text: text.into(), ..WireTable::default() };
        let mut open: Option<Box<str>> = None;
        let mut first = 0;
        let mut at = 0usize;
        let text = std::mem::take(&mut table.text);
        for line in text.split_inclusive('\n') {
            let start = at;
            at += line.len();
            let line = line.trim_end();
            if let Some(name) = line.strip_prefix('@') {
                table.close(open.replace(name.into()), first);
                first = table.entries.len();
                continue;
            }
            let Some((number, rest)) = line.split_once(' ') else { continue };
            let Ok(number) = number.parse() else { continue };
            let keep_zero = rest.ends_with('!');
            let inline = rest.starts_with('>');
            let from = start + (line.len() - rest.len()) + usize::from(inline);
            let to = start + line.len() - usize::from(keep_zero);
            let (Ok(start), Ok(end)) = (u32::try_from(from), u32::try_from(to)) else { continue };
            let span = Span { start, end };
            let entry = if inline { Entry::Inline(span) } else { Entry::Named { name: span, keep_zero } };
            table.entries.push((number, entry));
        }
        table.close(open, first);
        table.text = text;
        table
    }

    fn close(&mut self, name: Option<Box<str>>, first: usize) {
        let (Ok(first), Ok(end)) = (u32::try_from(first), u32::try_from(self.entries.len())) else { return };
        if let Some(name) = name {
            self.types.insert(name, (first, end));
        }
    }

    /// The fields of a definition, or of an inline type.
    pub(super) fn fields(&self, name: &str) -> Option<&[(u32, Entry)]> {
        let (first, end) = self.types.get(name)?;
        self.entries.get(*first as usize..*end as usize)
    }

    /// Text of a span.
    pub(super) fn name(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}
