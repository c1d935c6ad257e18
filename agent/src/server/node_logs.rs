//! `/logs/…`: the files of the machine's log directory, listed and served as the kubelet does.
//!
//! Only directories and plain files, and only such that lie below the directory when every link has been followed.
//! Not for: logs of containers (`logs`), nor journals (upstream's NodeLogQuery is off by default).

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use orlop_runtime::resolve;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::{Body, logs::percent_decode, text};

/// What the kubelet serves.
pub(super) const DIRECTORY: &str = "/var/log";
/// How much of a file says what it is.
const SNIFFED: usize = 512;

/// What a path leads to.
enum Found {
    Directory(Vec<String>),
    File { file: File, size: u64, kind: &'static str },
}

/// The answer for a path of a URL, whose first part is `logs`.
pub(super) async fn answer(root: &'static str, url_path: &str) -> Response<Body> {
    let path = percent_decode(url_path.trim_start_matches('/').trim_start_matches("logs"));
    let wanted = PathBuf::from(path.trim_matches('/'));
    let found = tokio::task::spawn_blocking(move || find(Path::new(root), &wanted)).await;
    let found = found.unwrap_or_else(|died| Err(io::Error::other(died)));
    match found {
        // As Go says what it does not find, or may not read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            text(StatusCode::FORBIDDEN, "403 Forbidden")
        }
        Err(_) => text(StatusCode::NOT_FOUND, "404 page not found"),
        Ok(Found::Directory(names)) if path.ends_with('/') => listing(&names),
        Ok(Found::Directory(_)) => to_directory(url_path),
        Ok(Found::File { file, size, kind }) => content(file, size, kind),
    }
}

/// Opened so that nothing on the way can be exchanged for a link to elsewhere.
fn find(root: &Path, wanted: &Path) -> io::Result<Found> {
    let root = fs::canonicalize(root)?;
    let real = fs::canonicalize(root.join(wanted))?;
    let below = real.strip_prefix(&root).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let dir = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    // What may block or act when it is opened for reading is looked at before.
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let looked = File::from(resolve::open(&dir, below, OFlags::PATH, inside)?);
    let meta = looked.metadata()?;
    if !meta.is_dir() && !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let opened: OwnedFd = resolve::open(&dir, below, flags, inside)?;
    let mut file = File::from(opened);
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Ok(Found::Directory(names(&real)?));
    }
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let kind = sniff(&mut file)?;
    Ok(Found::File { file, size: meta.len(), kind })
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir(dir)?
        .flatten()
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir { name + "/" } else { name }
        })
        .collect();
    names.sort();
    Ok(names)
}

fn sniff(file: &mut File) -> io::Result<&'static str> {
    let mut head = Vec::with_capacity(SNIFFED);
    file.by_ref().take(SNIFFED as u64).read_to_end(&mut head)?;
    file.rewind()?;
    Ok(kind_of(&head))
}

fn kind_of(head: &[u8]) -> &'static str {
    let binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    match head {
        [0x1f, 0x8b, ..] => "application/x-gzip",
        head if head.iter().any(binary) => "application/octet-stream",
        _ => "text/plain; charset=utf-8",
    }
}

fn listing(names: &[String]) -> Response<Body> {
    let mut page =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        page.push_str(&format!("<a href=\"{}\">{}</a>\n", url(name), html(name)));
    }
    page.push_str("</pre>\n");
    let mut response =
        Response::new(Full::new(Bytes::from(page)).map_err(|never| match never {}).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// Relative, as a browser behind a proxy needs it.
fn to_directory(url_path: &str) -> Response<Body> {
    let last = url_path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "Moved Permanently");
    if let Ok(location) = HeaderValue::from_str(&format!("{last}/")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// As much as there is now: a log grows while it is read.
fn content(file: File, size: u64, kind: &'static str) -> Response<Body> {
    let reader = ReaderStream::new(tokio::fs::File::from_std(file).take(size));
    let mut response = Response::new(StreamBody::new(reader.map_ok(Frame::data)).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_LENGTH, size.into());
    response
}

/// Of a name in a link; one that looks like a scheme is no scheme.
fn url(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let shown = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(shown).collect()
}

fn html(name: &str) -> String {
    let mut shown = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&#34;"),
            '\'' => shown.push_str("&#39;"),
            other => shown.push(other),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn shown(root: &Path, wanted: &str) -> String {
        match find(root, Path::new(wanted)) {
            Ok(Found::Directory(names)) => names.join(" "),
            Ok(Found::File { mut file, size, kind }) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                assert_eq!(size, text.len() as u64);
                format!("{kind}: {text}")
            }
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    #[test]
    fn nothing_outside_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        let root = dir.path().join("log");
        fs::create_dir_all(root.join("pods")).unwrap();
        fs::write(root.join("syslog"), "one\n").unwrap();
        fs::write(root.join("pods/0.log"), "two\n").unwrap();
        symlink(root.join("pods/0.log"), root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink("/", root.join("root")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        for (wanted, expected) in [
            ("", "fifo inside outside pods/ root syslog"),
            ("syslog", "text/plain; charset=utf-8: one\n"),
            ("pods/0.log", "text/plain; charset=utf-8: two\n"),
            ("inside", "text/plain; charset=utf-8: two\n"),
            ("pods/../syslog", "text/plain; charset=utf-8: one\n"),
            ("outside", "NotFound"),
            ("root/etc/passwd", "NotFound"),
            ("../secret", "NotFound"),
            ("pods/../../secret", "NotFound"),
            ("fifo", "NotFound"),
            ("none", "NotFound"),
        ] {
            assert_eq!(shown(&root, wanted), expected, "{wanted}");
        }
    }

    #[test]
    fn names_are_harmless_in_a_page() {
        assert_eq!(url("a b\"<:é/"), "a%20b%22%3C%3A%C3%A9/");
        assert_eq!(html("<a href=\"x\">&'"), "&lt;a href=&#34;x&#34;&gt;&amp;&#39;");
        assert_eq!(kind_of(b"\x1f\x8b\x08"), "application/x-gzip");
        assert_eq!(kind_of(b"a\0b"), "application/octet-stream");
        assert_eq!(kind_of("\x1b[1mä\n".as_bytes()), "text/plain; charset=utf-8");
    }
}
