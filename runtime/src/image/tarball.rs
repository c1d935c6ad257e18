//! `[p]` Reading a tar stream entry by entry, with bounds: ustar, PAX, GNU long names, GNU sparse files.
//!
//! The `tar` crate decodes header fields; the walk is our own because its PAX reader splits records at line
//! ends (a binary `security.capability` may hold one) and because names and attributes must be bounded in memory.
//! Where readers could disagree it does as Go's `archive/tar`, which wrote and read nearly every layer there is.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

const BLOCK: u64 = 512;
/// Names, attributes and sparse maps of one entry.
const META_MAX: u64 = 1 << 20;

/// What kind of thing an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// One entry; its content follows from [`Entries::read`].
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Bytes in the stream.
    pub(crate) size: u64,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

/// Where the bytes of a sparse file go.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Offset and length, in order, not overlapping.
    pub(crate) runs: Vec<(u64, u64)>,
    /// Length of the file.
    pub(crate) size: u64,
}

impl Entry {
    /// Length of the file that the entry makes.
    pub(crate) fn file_size(&self) -> u64 {
        self.sparse.as_ref().map_or(self.size, |sparse| sparse.size)
    }
}

/// Why a stream is not a tar that can be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream broke or ended early.
    #[error("read the archive")]
    Read(#[from] io::Error),
    /// Not a tar, or a broken one.
    #[error("broken archive: {0}")]
    Broken(&'static str),
    /// A type that no image needs.
    #[error("entry {path} has the unsupported type {kind:?}")]
    Type {
        /// Name of the entry.
        path: String,
        /// The type byte.
        kind: char,
    },
    /// Names or attributes without end.
    #[error("names and attributes of one entry exceed {META_MAX} bytes")]
    Meta,
}

/// Walks over the entries of a stream.
pub(crate) struct Entries<R> {
    inner: R,
    /// Content of the current entry that was not read yet, and the padding after it.
    left: u64,
    padding: u64,
}

#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> Read for Entries<R> {
    /// Content of the current entry.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R: Read> Entries<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The stream, for what follows the last entry.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; skips what is left of the current one.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut extensions = Extensions::default();
        let mut budget = META_MAX;
        loop {
            let Some(header) = self.next_header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_| TarError::Broken("size is not a number"))?;
            let kind = header.entry_type();
            let is_meta = kind.is_pax_local_extensions()
                || kind.is_gnu_longname()
                || kind.is_gnu_longlink()
                || kind.is_pax_global_extensions();
            if !is_meta {
                return self.entry(&header, size, extensions, &mut budget).map(Some);
            }
            self.content(size)?;
            let data = self.meta(size, &mut budget)?;
            if kind.is_pax_local_extensions() {
                pax(&data, &mut extensions)?;
            } else if kind.is_gnu_longname() {
                extensions.path = Some(until_nul(data));
            } else if kind.is_gnu_longlink() {
                extensions.link = Some(until_nul(data));
            }
        }
    }

    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        let rest = self.left.checked_add(self.padding).ok_or(TarError::Broken("size overflows"))?;
        if io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())? != rest {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        (self.left, self.padding) = (0, 0);
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|b| *b == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|b| *b != 0) => {
                    Err(TarError::Broken("data after the end mark"))
                }
                _ => Ok(None),
            };
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) })
            .sum();
        let header = Header::from_byte_slice(&block).clone();
        if header.cksum().ok() != Some(sum) {
            return Err(TarError::Broken("header checksum"));
        }
        Ok(Some(header))
    }

    /// One block, or `None` where the stream ends.
    fn block(&mut self) -> Result<Option<[u8; 512]>, TarError> {
        let mut block = [0; 512];
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                n => filled += n,
            }
        }
        Ok(Some(block))
    }

    fn content(&mut self, size: u64) -> Result<(), TarError> {
        let padded = size.checked_next_multiple_of(BLOCK).ok_or(TarError::Broken("size overflows"))?;
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    fn meta(&mut self, size: u64, budget: &mut u64) -> Result<Vec<u8>, TarError> {
        *budget = budget.checked_sub(size).ok_or(TarError::Meta)?;
        let mut data = Vec::new();
        self.read_to_end(&mut data)?;
        Ok(data)
    }

    fn entry(
        &mut self,
        header: &Header,
        size: u64,
        ext: Extensions,
        budget: &mut u64,
    ) -> Result<Entry, TarError> {
        let path = ext.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = ext.link.unwrap_or_else(|| {
            header.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default()
        });
        let kind = kind(header.entry_type(), &path)?;
        // The size of what has no content means nothing, and some writers leave the target's there.
        let size = if kind == Kind::File { ext.size.unwrap_or(size) } else { 0 };
        let sparse =
            if header.entry_type().is_gnu_sparse() { Some(self.sparse(header, size, budget)?) } else { None };
        self.content(size)?;
        let id = |extended: Option<u64>, field: &[u8], value: io::Result<u64>, what| {
            let value = extended.or(value.ok()).or_else(|| is_blank(field).then_some(0));
            value.and_then(|value| u32::try_from(value).ok()).ok_or(TarError::Broken(what))
        };
        let old = header.as_old();
        let mtime = match ext.mtime {
            Some(mtime) => mtime,
            None => (i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0), 0),
        };
        let mode = id(None, &old.mode, header.mode().map(u64::from), "mode is not a number")? & 0o7777;
        let uid = id(ext.uid, &old.uid, header.uid(), "uid is not a number that an owner can have")?;
        let gid = id(ext.gid, &old.gid, header.gid(), "gid is not a number that a group can have")?;
        let device = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
        let device = (device(header.device_major()), device(header.device_minor()));
        Ok(Entry { path, link, kind, size, mode, uid, gid, mtime, device, xattrs: ext.xattrs, sparse })
    }

    fn sparse(&mut self, header: &Header, size: u64, budget: &mut u64) -> Result<Sparse, TarError> {
        let broken = TarError::Broken("sparse map");
        let Some(gnu) = header.as_gnu() else { return Err(broken) };
        let mut runs = Vec::new();
        let mut add = |list: &[tar::GnuSparseHeader]| -> Result<(), TarError> {
            for run in list.iter().filter(|run| !run.is_empty()) {
                let offset = run.offset().map_err(|_| TarError::Broken("sparse map"))?;
                let length = run.length().map_err(|_| TarError::Broken("sparse map"))?;
                runs.push((offset, length));
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            *budget = budget.checked_sub(BLOCK).ok_or(TarError::Meta)?;
            let block = self.block()?.ok_or(TarError::Broken("sparse map"))?;
            let mut ext = GnuExtSparseHeader::new();
            ext.as_mut_bytes().copy_from_slice(&block);
            add(&ext.sparse)?;
            more = ext.is_extended();
        }
        let real = gnu.real_size().map_err(|_| TarError::Broken("sparse map"))?;
        let mut end = 0;
        for (offset, length) in &runs {
            if *offset < end {
                return Err(broken);
            }
            end = offset
                .checked_add(*length)
                .filter(|end| *end <= real)
                .ok_or(TarError::Broken("sparse map"))?;
        }
        if runs.iter().map(|(_, length)| length).sum::<u64>() != size {
            return Err(broken);
        }
        Ok(Sparse { runs, size: real })
    }
}

/// A number that was left out, as old writers do.
fn is_blank(field: &[u8]) -> bool {
    field.iter().all(|b| matches!(b, 0 | b' '))
}

fn kind(entry_type: EntryType, path: &[u8]) -> Result<Kind, TarError> {
    Ok(match entry_type.as_byte() {
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            let path = String::from_utf8_lossy(path).into_owned();
            return Err(TarError::Type { path, kind: char::from(other) });
        }
    })
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    data.truncate(end);
    data
}

/// PAX records: `<length> <key>=<value>\n`, where the length counts the whole record and the value may be binary.
fn pax(mut data: &[u8], ext: &mut Extensions) -> Result<(), TarError> {
    let broken = || TarError::Broken("PAX record");
    while !data.is_empty() {
        let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(broken)?;
        let length: usize = text(&data[..space]).and_then(|t| t.parse().ok()).ok_or_else(broken)?;
        let record = data.get(space + 1..length).ok_or_else(broken)?;
        let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        apply(key, value, ext).ok_or_else(broken)?;
        if key.starts_with(b"GNU.sparse.") {
            return Err(TarError::Broken("PAX sparse files are not supported"));
        }
        data = &data[length..];
    }
    Ok(())
}

fn apply(key: &[u8], value: &[u8], ext: &mut Extensions) -> Option<()> {
    let number = || text(value).and_then(|t| t.parse().ok());
    match key {
        b"path" => ext.path = Some(value.to_vec()),
        b"linkpath" => ext.link = Some(value.to_vec()),
        b"size" => ext.size = Some(number()?),
        b"uid" => ext.uid = Some(number()?),
        b"gid" => ext.gid = Some(number()?),
        b"mtime" => ext.mtime = Some(timestamp(text(value)?)?),
        key => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                ext.xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
    }
    Some(())
}

/// `1700000000.123`, possibly negative, into seconds rounded down and nanoseconds.
fn timestamp(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> String {
        let mut entries = Entries::new(bytes);
        let mut lines = Vec::new();
        loop {
            match entries.next_entry() {
                Ok(None) => return lines.join("; "),
                Err(error) => return format!("{}; error: {error}", lines.join("; ")),
                Ok(Some(entry)) => {
                    let xattrs: Vec<_> =
                        entry.xattrs.iter().map(|(k, v)| format!("{}={v:?}", lossy(k))).collect();
                    lines.push(format!(
                        "{:?} {} {} {}",
                        entry.kind,
                        lossy(&entry.path),
                        entry.size,
                        xattrs.join(",")
                    ));
                }
            }
        }
    }

    fn lossy(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, content).unwrap();
    }

    #[test]
    fn entries_follow_each_other_whether_read_or_not() {
        let long = format!("{}/x", "d".repeat(150));
        let bytes = archive(|b| {
            file(b, "a", b"hello");
            file(b, &long, &[7; 1000]);
            file(b, "z", b"");
        });
        assert_eq!(walk(&bytes), format!("File a 5 ; File {long} 1000 ; File z 0 "));
    }

    #[test]
    fn attributes_may_hold_line_ends() {
        let bytes = archive(|b| {
            b.append_pax_extensions([("SCHILY.xattr.security.capability", b"\x01\n\n=\x02".as_slice())])
                .unwrap();
            file(b, "ping", b"x");
        });
        assert_eq!(walk(&bytes), "File ping 1 security.capability=[1, 10, 10, 61, 2]");
    }

    #[test]
    fn endless_names_are_refused() {
        let bytes = archive(|b| {
            let value = vec![b'x'; 2 << 20];
            b.append_pax_extensions([("path", value.as_slice())]).unwrap();
            file(b, "a", b"");
        });
        assert_eq!(walk(&bytes), "; error: names and attributes of one entry exceed 1048576 bytes");
    }

    #[test]
    fn truncated_and_broken_archives_are_refused() {
        let whole = archive(|b| file(b, "a", &[1; 700]));
        assert_eq!(walk(&whole[..900]), "File a 700 ; error: read the archive");
        assert_eq!(walk(&whole[..100]), "; error: read the archive");
        let mut flipped = whole.clone();
        flipped[3] ^= 1;
        assert_eq!(walk(&flipped), "; error: broken archive: header checksum");
        assert_eq!(walk(b""), "");
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        assert_eq!(timestamp("12.5"), Some((12, 500_000_000)));
        assert_eq!(timestamp("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(timestamp("7"), Some((7, 0)));
        assert_eq!(timestamp("x"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_in_entries_or_an_error(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2048),
            cut in 0usize..3000, flip in 0usize..2500,
        ) {
            walk(&bytes);
            let mut good = archive(|b| { file(b, "a", b"hello"); file(b, &"n".repeat(200), b"x"); });
            let flip = flip % good.len();
            good[flip] = good[flip].wrapping_add(1);
            walk(&good[..cut.min(good.len())]);
        }
    }
}
