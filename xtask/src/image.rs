//! Builds the images of Orlop itself and of the examples as OCI layouts from parts of this machine: no docker, nothing
//! from the internet.
//!
//! Deterministic: the same parts give the same bytes and so the same digests (fixed times, owners and order).
//! Not for: loading them anywhere.

pub(crate) mod debian;
pub(crate) mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tar::{EntryType, Header};

use self::layout::Layout;

/// An image layout on disk.
#[derive(Clone, Debug)]
pub(crate) struct BuiltImage {
    /// `orlop.dev/example/hello:v1`.
    pub(crate) reference: String,
    /// Directory of the layout.
    pub(crate) layout: PathBuf,
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// Writes every example image under `out`, replacing what is there.
pub(crate) fn build_all(out: &Path, server_binary: &Path) -> Result<Vec<BuiltImage>> {
    let hello = hello_layer(server_binary)?;
    let busybox = busybox_layer()?;
    let mut images = Vec::new();
    for version in ["v1", "v2"] {
        let run = json!({
            "Entrypoint": ["/server"], "Cmd": ["serve"], "Env": [format!("VERSION={version}")],
            "ExposedPorts": {"8080/tcp": {}, "8080/udp": {}},
            "Labels": {"org.opencontainers.image.version": version},
        });
        images.push(write_image(out, "hello", version, &hello, &run)?);
    }
    let run = json!({
        "Cmd": ["sh"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    });
    images.push(write_image(out, "busybox", "v1", &busybox, &run)?);
    Ok(images)
}

/// The image of `orlop` itself, for clusters that run it as a pod: the static program and nothing else. The layout is
/// under `out`, with an archive of it beside.
pub(crate) fn own(out: &Path, orlop: &Path, reference: &str) -> Result<BuiltImage> {
    let binary = fs::read(orlop).with_context(|| format!("read {}", orlop.display()))?;
    // A dynamic program names its loader, which is not in this image.
    if binary.windows(8).any(|w| w == b"/ld-linu") {
        bail!("{} is not static: `cargo xtask build` makes one that is", orlop.display());
    }
    let mut layer = Layer::new();
    layer.file("orlop", 0o755, &binary)?;
    let mut layout = Layout::new(out)?;
    let layer = layout.layer(&layer.finish()?)?;
    layout.image(reference, &[&layer], &json!({"Entrypoint": ["/orlop"], "Cmd": ["dataplane"]}))?;
    let path = out.join("orlop");
    layout.finish(&path)?;
    let archive = out.join("orlop.tar");
    let file = fs::File::create(&archive).with_context(|| format!("create {}", archive.display()))?;
    let mut tar = tar::Builder::new(file);
    tar.mode(tar::HeaderMode::Deterministic);
    tar.append_dir_all(".", &path).with_context(|| format!("write {}", archive.display()))?;
    tar.finish().with_context(|| format!("write {}", archive.display()))?;
    Ok(BuiltImage { reference: reference.to_owned(), layout: path })
}

/// An image for measuring pulls: five layers of 60 MB, half of it noise. Made once; the layout.
pub(crate) fn big(out: &Path) -> Result<PathBuf> {
    let path = out.join("layout");
    if path.join("index.json").exists() {
        return Ok(path);
    }
    let mut layout = Layout::new(out)?;
    let mut seed = 1_u64;
    let mut layers = Vec::new();
    for number in 0..5 {
        let mut layer = Layer::new();
        layer.dir(&format!("data{number}/"), 0o755)?;
        for file in 0..600 {
            let mut bytes = Vec::with_capacity(100_000);
            while bytes.len() < 50_000 {
                // Xorshift: noise that is the same on every machine.
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                bytes.extend(seed.to_le_bytes());
            }
            bytes.resize(100_000, b'x');
            layer.file(&format!("data{number}/{file}"), 0o644, &bytes)?;
        }
        layers.push(layout.layer(&layer.finish()?)?);
    }
    layout.image("bench", &layers.iter().collect::<Vec<_>>(), &json!({"Cmd": ["none"]}))?;
    layout.finish(&path)?;
    Ok(path)
}

fn hello_layer(server: &Path) -> Result<Vec<u8>> {
    let binary = fs::read(server).with_context(|| format!("read {}", server.display()))?;
    let mut layer = Layer::new();
    layer.dir("etc/", 0o755)?;
    layer.file("etc/group", 0o644, GROUP.as_bytes())?;
    layer.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    layer.file("server", 0o755, &binary)?;
    layer.dir("tmp/", 0o1777)?;
    layer.finish()
}

fn busybox_layer() -> Result<Vec<u8>> {
    let (path, applets) = find_busybox()?;
    let binary = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut layer = Layer::new();
    layer.dir("bin/", 0o755)?;
    layer.file("bin/busybox", 0o755, &binary)?;
    for applet in &applets {
        layer.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    layer.dir("etc/", 0o755)?;
    layer.file("etc/group", 0o644, GROUP.as_bytes())?;
    layer.file("etc/passwd", 0o644, PASSWD.as_bytes())?;
    layer.dir("root/", 0o700)?;
    layer.dir("tmp/", 0o1777)?;
    layer.finish()
}

/// Debian's static busybox and the applets it has, without the one that is its own name.
fn find_busybox() -> Result<(PathBuf, Vec<String>)> {
    let install = "install the package busybox-static (`cargo xtask setup` does)";
    let candidates = ["/usr/bin/busybox", "/bin/busybox"];
    let Some(path) = candidates.iter().map(PathBuf::from).find(|path| path.exists()) else {
        bail!("no busybox: {install}");
    };
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    // A dynamic program names its loader; in an image without one it would not start.
    if bytes.windows(8).any(|w| w == b"/ld-linu") || bytes.windows(9).any(|w| w == b"/lib/ld-m") {
        bail!("{} is not static: {install}", path.display());
    }
    let output =
        Command::new(&path).arg("--list").output().with_context(|| format!("run {}", path.display()))?;
    let text = String::from_utf8(output.stdout).context("applets of busybox")?;
    let mut applets: Vec<String> =
        text.lines().filter(|name| *name != "busybox" && !name.contains('/')).map(str::to_owned).collect();
    applets.sort();
    applets.dedup();
    if !applets.iter().any(|applet| applet == "sh") {
        bail!("{} lists no applet `sh`", path.display());
    }
    Ok((path, applets))
}

/// A layer's archive with fixed owners and times.
struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(&mut self, kind: EntryType, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = header(kind, mode, content.len() as u64);
        self.0.append_data(&mut header, name, content).with_context(|| format!("add {name}"))
    }

    fn dir(&mut self, name: &str, mode: u32) -> Result<()> {
        self.entry(EntryType::Directory, name, mode, b"")
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(EntryType::Regular, name, mode, content)
    }

    fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, name, target).with_context(|| format!("add {name}"))
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(self.0.into_inner()?)
    }
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn write_image(out: &Path, name: &str, tag: &str, archive: &[u8], run: &Value) -> Result<BuiltImage> {
    let reference = format!("orlop.dev/example/{name}:{tag}");
    let path = out.join(format!("{name}-{tag}"));
    let mut layout = Layout::new(out)?;
    let layer = layout.layer(archive)?;
    layout.image(&reference, &[&layer], run)?;
    layout.finish(&path)?;
    Ok(BuiltImage { reference, layout: path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_parts_give_the_same_images() {
        let scratch = tempfile::tempdir().unwrap();
        let server = scratch.path().join("server");
        fs::write(&server, "not really a program").unwrap();
        let layer = hello_layer(&server).unwrap();
        let run = json!({"Entrypoint": ["/server"]});
        let index = |out: &str| {
            let image = write_image(&scratch.path().join(out), "hello", "v1", &layer, &run).unwrap();
            assert_eq!(image.reference, "orlop.dev/example/hello:v1");
            fs::read_to_string(image.layout.join("index.json")).unwrap()
        };
        assert_eq!(index("one"), index("two"));
        assert_eq!(index("one"), index("one"));
    }

    #[test]
    fn an_image_being_read_is_never_half_there() {
        let scratch = tempfile::tempdir().unwrap();
        let out = scratch.path().join("out");
        let build = |tag: &str| {
            let run = json!({"Env": [tag]});
            write_image(&out, "hello", "v1", tag.as_bytes(), &run).unwrap().layout
        };
        let layout = build("first");
        std::thread::scope(|scope| {
            let writers = ["a", "b"].map(|tag| {
                scope.spawn(move || (0..50).for_each(|turn| drop(build(&format!("{tag}{turn}")))))
            });
            while writers.iter().any(|writer| !writer.is_finished()) {
                let index = fs::read(layout.join("index.json")).unwrap();
                assert!(serde_json::from_slice::<Value>(&index).is_ok());
            }
        });
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "nothing else is left");
    }
}
