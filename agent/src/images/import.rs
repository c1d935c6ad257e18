//! Imports the archives of a directory: at the start, and when files appear; for machines without a registry.
//!
//! ```text
//!  inotify (closed after writing, moved in, gone) ─▶ scan: stamps against pins ─▶ load ─▶ pin ─▶ next file
//! ```
//! A file is read when its writer closed it or moved it in; one that was found without that news must have rested for a
//! moment. Should it be incomplete all the same, the digests inside it say so, and it is read again when it has changed.
//! Names with a leading dot and `.part`, `.tmp` endings are left alone altogether. What a file brought is pinned for as
//! long as the file is there. A file that cannot be used is one warning, and no other file's problem. Not for: the
//! formats.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use orlop_runtime::image::{Images, Pin};

use crate::watch_dir;

/// Looked at anew after so long even without news: a watch may have been lost.
const PERIOD: Duration = Duration::from_secs(300);
/// A file that nobody announced must have been left alone for so long.
const REST: Duration = Duration::from_secs(2);

/// The directory and where its images go.
pub struct Importer {
    /// The store.
    pub images: Images,
    /// The directory; made if it is not there.
    pub dir: PathBuf,
}

/// What a scan found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Files whose images are there now.
    pub imported: Vec<String>,
    /// Files that cannot be used, with the reason.
    pub refused: Vec<(String, String)>,
    /// Some files may still be in writing: look again soon.
    pub unfinished: bool,
}

/// What is remembered from one scan to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// Files that are complete, because their writers said so.
    pub announced: BTreeSet<String>,
    /// Files by stamp that are not worth another try.
    refused: BTreeMap<String, String>,
}

impl Importer {
    /// For as long as the program runs.
    pub async fn run(self) {
        let mut watch = match watch_dir::watch(&self.dir, "image-dir") {
            Ok(watch) => Some(watch),
            Err(error) => {
                let dir = self.dir.display();
                tracing::warn!(%dir, %error, "image directory not watched, only looked at every few minutes");
                None
            }
        };
        let mut memory = Memory::default();
        loop {
            let (images, dir) = (self.images.clone(), self.dir.clone());
            let mut taken = std::mem::take(&mut memory);
            let scanned = tokio::task::spawn_blocking(move || {
                let scan = scan(&images, &dir, &mut taken, SystemTime::now());
                (scan, taken)
            });
            let mut pause = PERIOD;
            if let Ok((scan, kept)) = scanned.await {
                memory = kept;
                for file in scan.imported {
                    tracing::info!(file, "images imported");
                }
                for (file, error) in scan.refused {
                    tracing::warn!(file, error, "image file not imported");
                }
                if scan.unfinished {
                    pause = REST;
                }
            }
            let news = async {
                match &mut watch {
                    Some(watch) => watch_dir::next(watch).await,
                    None => std::future::pending().await,
                }
            };
            if let Ok(news) = tokio::time::timeout(pause, news).await {
                memory.announced.extend(news.iter().map(|file| file.display().to_string()));
            }
        }
    }
}

/// Brings store and directory together.
pub fn scan(images: &Images, dir: &Path, memory: &mut Memory, now: SystemTime) -> Scan {
    let mut scan = Scan::default();
    let announced = std::mem::take(&mut memory.announced);
    let refused = &mut memory.refused;
    let files = match files(dir) {
        Ok(files) => files,
        Err(error) => {
            scan.refused.push((dir.display().to_string(), error.to_string()));
            return scan;
        }
    };
    let pins: BTreeMap<String, Pin> = match images.pins() {
        Ok(pins) => pins.into_iter().map(|pin| (pin.by.clone(), pin)).collect(),
        Err(error) => {
            scan.refused.push((dir.display().to_string(), crate::wire::chain(&error)));
            return scan;
        }
    };
    let names: BTreeSet<String> = files.keys().map(|path| path.display().to_string()).collect();
    let prefix = format!("{}/", dir.display());
    for gone in pins.keys().filter(|by| by.starts_with(&prefix) && !names.contains(*by)) {
        if let Err(error) = images.unpin(gone) {
            scan.refused.push((gone.clone(), crate::wire::chain(&error)));
        }
    }
    refused.retain(|file, _| names.contains(file));
    for (path, File { stamp, modified }) in files {
        let name = path.display().to_string();
        let whole = |pin: &&Pin| pin.stamp == stamp && pin.images.iter().all(|id| is_here(images, id));
        if pins.get(&name).filter(whole).is_some() || refused.get(&name) == Some(&stamp) {
            continue;
        }
        let rested = now.duration_since(modified).is_ok_and(|rest| rest >= REST);
        if !rested && !announced.contains(&name) {
            scan.unfinished = true;
            continue;
        }
        match import(images, &path, &stamp) {
            Ok(()) => scan.imported.push(name),
            Err(error) => {
                refused.insert(name.clone(), stamp);
                scan.refused.push((name, error));
            }
        }
    }
    scan
}

fn is_here(images: &Images, id: &str) -> bool {
    images.get(id).is_ok_and(|found| found.is_some())
}

fn import(images: &Images, path: &Path, stamp: &str) -> Result<(), String> {
    let loaded = images.load(path).map_err(|error| crate::wire::chain(&error))?;
    let ids = loaded.into_iter().map(|image| image.id).collect();
    let pin = Pin { by: path.display().to_string(), images: ids, stamp: stamp.to_owned() };
    images.pin(&pin).map_err(|error| crate::wire::chain(&error))
}

struct File {
    /// Tells a changed file from an unchanged one.
    stamp: String,
    modified: SystemTime,
}

fn files(dir: &Path) -> io::Result<BTreeMap<PathBuf, File>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name.ends_with(".part") || name.ends_with(".tmp") {
            continue;
        }
        // A symlink to an archive counts; what vanished meanwhile does not.
        let Ok(found) = fs::metadata(&path) else { continue };
        if found.is_file() {
            let stamp = format!("{}:{}:{}.{}", found.ino(), found.len(), found.mtime(), found.mtime_nsec());
            let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.insert(path, File { stamp, modified });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `docker save` archive of one empty layer.
    fn archive(name: &str) -> Vec<u8> {
        // Two zero blocks: an archive of nothing, and its digest.
        let layer = vec![0; 1024];
        let diff = orlop_runtime::image::Digest::of(&layer);
        let config = format!(r#"{{"rootfs":{{"diff_ids":["{diff}"]}},"config":{{"User":"{name}"}}}}"#);
        let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["{name}"],"Layers":["l.tar"]}}]"#);
        let files: [(&str, &[u8]); 3] =
            [("manifest.json", manifest.as_bytes()), ("c.json", config.as_bytes()), ("l.tar", &layer)];
        let mut bytes = Vec::new();
        for (name, content) in files {
            bytes.extend(header(name, content.len()));
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }

    fn header(name: &str, size: usize) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[148..156].copy_from_slice(b"        ");
        block[156] = b'0';
        block[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    struct Bench {
        images: Images,
        memory: Memory,
        // Last, so that it goes last.
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let images = Images::open(dir.path().join("store")).unwrap();
            fs::create_dir(dir.path().join("in")).unwrap();
            Self { dir, images, memory: Memory::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join("in").join(name)
        }

        /// A scan, so long after now.
        fn scan(&mut self, later: Duration) -> String {
            let dir = self.dir.path().join("in");
            let scan = scan(&self.images, &dir, &mut self.memory, SystemTime::now() + later);
            let short = |text: &str| text.replace(&format!("{}/", dir.display()), "");
            let imported = scan.imported.iter().map(|file| format!("+{}", short(file)));
            let refused = scan.refused.iter().map(|(file, why)| format!("!{}: {}", short(file), short(why)));
            let unfinished = scan.unfinished.then(|| "…".to_owned());
            imported.chain(refused).chain(unfinished).collect::<Vec<_>>().join("\n")
        }

        fn pinned(&self) -> Vec<usize> {
            self.images.pins().unwrap().iter().map(|pin| pin.images.len()).collect()
        }
    }

    const LATER: Duration = Duration::from_secs(3600);

    #[test]
    fn files_are_imported_once_and_pinned_while_they_are_there() {
        let mut bench = Bench::new();
        fs::write(bench.path("a.tar"), archive("x.io/a:1")).unwrap();
        fs::write(bench.path(".b.tar"), "hidden").unwrap();
        fs::write(bench.path("c.tar.part"), "half").unwrap();
        fs::create_dir(bench.path("d")).unwrap();
        assert_eq!(bench.scan(LATER), "+a.tar");
        assert_eq!(bench.scan(LATER), "");
        assert_eq!((bench.images.list().unwrap().len(), bench.pinned()), (1, vec![1]));
        // Somebody removed the image: the file brings it back.
        bench.images.remove("x.io/a:1").unwrap();
        assert_eq!(bench.scan(LATER), "+a.tar");
        fs::remove_file(bench.path("a.tar")).unwrap();
        assert_eq!(bench.scan(LATER), "");
        assert_eq!((bench.images.list().unwrap().len(), bench.pinned()), (1, vec![]));
    }

    #[test]
    fn a_bad_file_is_told_once_and_takes_no_other_down() {
        let mut bench = Bench::new();
        fs::write(bench.path("1-bad.tar"), vec![7; 2000]).unwrap();
        let whole = archive("x.io/b:1");
        fs::write(bench.path("2-cut.tar"), &whole[..whole.len() / 2]).unwrap();
        fs::write(bench.path("3-good.tar"), archive("x.io/a:1")).unwrap();
        assert_eq!(
            bench.scan(LATER),
            "+3-good.tar\n!1-bad.tar: open 1-bad.tar: broken archive: header checksum\n\
             !2-cut.tar: open 2-cut.tar: read the archive: unexpected end of file"
        );
        assert_eq!(bench.scan(LATER), "");
        // It is complete now.
        fs::write(bench.path("2-cut.tar"), &whole).unwrap();
        assert_eq!(bench.scan(LATER), "+2-cut.tar");
    }

    #[test]
    fn a_file_in_writing_is_left_alone_until_its_writer_is_done() {
        let mut bench = Bench::new();
        fs::write(bench.path("a.tar"), archive("x.io/a:1")).unwrap();
        assert_eq!(bench.scan(Duration::ZERO), "…");
        bench.memory.announced.insert(bench.path("a.tar").display().to_string());
        assert_eq!(bench.scan(Duration::ZERO), "+a.tar");
    }

    #[tokio::test]
    async fn files_that_appear_are_noticed() {
        let bench = Bench::new();
        let importer = Importer { images: bench.images.clone(), dir: bench.dir.path().join("in") };
        let task = tokio::spawn(importer.run());
        tokio::time::sleep(Duration::from_millis(100)).await;
        fs::write(bench.dir.path().join("elsewhere"), archive("x.io/moved:1")).unwrap();
        fs::rename(bench.dir.path().join("elsewhere"), bench.path("moved.tar")).unwrap();
        fs::write(bench.path("written.tar"), archive("x.io/written:1")).unwrap();
        for _ in 0..100 {
            if bench.images.list().unwrap().len() == 2 {
                task.abort();
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not imported: {:?}", bench.images.list());
    }
}
