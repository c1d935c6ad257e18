//! The machine's own notice, where systemd-logind runs: it is asked to hold a shutdown back until the pods have ended.
//!
//! ```text
//!  inhibitor lock (delay) ─▶ PrepareForShutdown(true) ─▶ pods end ─▶ lock released ─▶ the machine goes down
//!                            PrepareForShutdown(false): called off; a new lock
//! ```
//!
//! As upstream, logind is told to wait for as long as the pods may take, where it would wait for less: by a file below
//! `/run`, which does not outlast the boot. The interface is org.freedesktop.login1(5). Not for: what is done then.

use std::{io, path::Path, time::Duration};

use futures::StreamExt as _;
use tokio::time::{Instant, sleep};
use zbus::{
    Connection, Proxy,
    proxy::{Builder, CacheProperties},
    zvariant::OwnedFd,
};

use super::Shutdown;

/// How long until a logind that is not there, or went away, is looked for again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long logind may take to read its settings.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

const DROP_IN: &str = "/run/systemd/logind.conf.d/99-orlop.conf";
/// `kill(2)` of the signal at which logind reads its settings.
const SIGHUP: i32 = 1;

#[derive(Debug, thiserror::Error)]
enum LogindError {
    #[error("talk to systemd-logind")]
    Bus(#[from] zbus::Error),
    #[error("write {DROP_IN}")]
    DropIn(#[source] io::Error),
}

/// Follows logind until the process ends; a machine without one costs a look now and then.
pub async fn follow(shutdown: &Shutdown) {
    let mut told = false;
    loop {
        match session(shutdown).await {
            Ok(()) => told = false,
            // The machine has no such bus: most containers, many small systems.
            Err(LogindError::Bus(zbus::Error::InputOutput(error)))
                if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if !told => {
                told = true;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "shutdowns are not held back for pods"
                );
            }
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}

/// Until logind goes away.
async fn session(shutdown: &Shutdown) -> Result<(), LogindError> {
    let bus = Connection::system().await?;
    let manager: Proxy<'_> = Builder::new(&bus)
        .destination("org.freedesktop.login1")?
        .path("/org/freedesktop/login1")?
        .interface("org.freedesktop.login1.Manager")?
        .cache_properties(CacheProperties::No)
        .build()
        .await?;
    // Before the lock, so that no notice is missed that waits for it.
    let mut notices = manager.receive_signal("PrepareForShutdown").await?;
    let mut gone = manager.receive_owner_changed().await?;
    let mut lock = Some(inhibit(&bus, &manager, shutdown.total()).await?);
    tracing::info!(seconds = shutdown.total().as_secs(), "systemd-logind holds shutdowns back for pods");
    loop {
        let notice = tokio::select! {
            notice = notices.next() => notice,
            // Its locks went with it.
            _ = gone.next() => None,
        };
        let Some(notice) = notice else { return Ok(()) };
        if notice.body().deserialize::<bool>()? {
            shutdown.run().await;
            lock = None;
        } else if lock.is_none() {
            shutdown.call_off();
            lock = Some(inhibit(&bus, &manager, shutdown.total()).await?);
        }
    }
}

/// The lock is the descriptor: logind waits until it is closed, or its time is over.
async fn inhibit(bus: &Connection, manager: &Proxy<'_>, total: Duration) -> Result<OwnedFd, LogindError> {
    if longest(manager).await? < total {
        allow(bus, total).await?;
        let until = Instant::now() + PATIENCE;
        while longest(manager).await? < total && Instant::now() < until {
            sleep(LOOK).await;
        }
        let longest = longest(manager).await?;
        if longest < total {
            tracing::warn!(
                seconds = longest.as_secs(),
                wanted = total.as_secs(),
                "systemd-logind holds shutdowns back for less than pods may take"
            );
        }
    }
    let why = "pods are ended in good order";
    Ok(manager.call("Inhibit", &("shutdown", "orlop", why, "delay")).await?)
}

/// For how long it waits.
async fn longest(manager: &Proxy<'_>) -> Result<Duration, LogindError> {
    Ok(Duration::from_micros(manager.get_property("InhibitDelayMaxUSec").await?))
}

/// Tells it to wait for longer.
async fn allow(bus: &Connection, total: Duration) -> Result<(), LogindError> {
    let text = format!("[Login]\nInhibitDelayMaxSec={}\n", total.as_secs_f64().ceil());
    let write = async {
        if let Some(dir) = Path::new(DROP_IN).parent() {
            tokio::fs::create_dir_all(dir).await?;
        }
        tokio::fs::write(DROP_IN, text).await
    };
    write.await.map_err(LogindError::DropIn)?;
    let systemd = Proxy::new(
        bus,
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
    );
    systemd.await?.call::<_, _, ()>("KillUnit", &("systemd-logind.service", "all", SIGHUP)).await?;
    Ok(())
}
