//! Hears when files of a directory are complete, or gone.
//!
//! A thread sleeps in the kernel: tokio can only wait for an inotify descriptor through unsafe code. Not for: reading
//! the files; news may be lost with the directory, so that whoever listens looks for himself now and then.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::mpsc;

/// Paths of complete files; `None` is any other news.
pub type News = mpsc::UnboundedReceiver<Option<PathBuf>>;

/// Watches the directory, making it if it is not there. `thread` names the thread.
///
/// # Errors
/// When the directory cannot be made or watched.
pub fn watch(dir: &Path, thread: &str) -> io::Result<News> {
    fs::create_dir_all(dir)?;
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    let news = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
    inotify::add_watch(&watch, dir, news | WatchFlags::ONLYDIR)?;
    let (news_to, news) = mpsc::unbounded_channel();
    let dir = dir.to_owned();
    let listen = move || listen(&watch, &dir, &news_to);
    std::thread::Builder::new().name(thread.to_owned()).stack_size(128 << 10).spawn(listen)?;
    Ok(news)
}

/// Ends with the first news that nobody hears.
fn listen(watch: &OwnedFd, dir: &Path, news: &mpsc::UnboundedSender<Option<PathBuf>>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    loop {
        let complete = match reader.next() {
            Ok(event) => {
                let is_complete = event.events().intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO);
                let name = event.file_name().filter(|_| is_complete);
                name.map(|name| dir.join(name.to_string_lossy().as_ref()))
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        };
        if news.send(complete).is_err() {
            return;
        }
    }
}

/// Waits until something happened, takes all of it, and says which files are complete now.
pub async fn next(watch: &mut News) -> Vec<PathBuf> {
    let Some(first) = watch.recv().await else { return std::future::pending().await };
    let mut complete = Vec::from_iter(first);
    while let Ok(more) = watch.try_recv() {
        complete.extend(more);
    }
    complete
}
