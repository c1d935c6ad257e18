//! Where a client finds the streams it was promised: a server on the loopback address, and a token for each promise.
//!
//! A token is good once and for a minute; who knows one may use the stream, so they are random and told only through the
//! socket. Not for: what travels in a stream (`server::stream`).

use std::{
    collections::HashMap,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::StatusCode;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use orlop_runtime::Runtime;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::server::{
    Body,
    stream::{self, Job},
    text,
};

/// How long a promise holds.
const PROMISE: Duration = Duration::from_secs(60);
/// Promises at a time.
const MAX_PROMISES: usize = 1000;
/// Random bytes of a token.
const TOKEN: usize = 24;

/// The server's address, and what it has promised.
#[derive(Clone)]
pub(super) struct Streaming {
    base: Arc<str>,
    promises: Arc<Mutex<HashMap<String, (Job, Instant)>>>,
}

impl Streaming {
    pub(super) async fn start(runtime: Runtime, stop: CancellationToken) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let streaming = Self { base: base.into(), promises: Arc::default() };
        tokio::spawn(streaming.clone().serve(listener, runtime, stop));
        Ok(streaming)
    }

    /// The URL of a stream.
    pub(super) fn promise(&self, job: Job) -> Result<String, Status> {
        let kind = match job {
            Job::Exec { .. } => "exec",
            Job::Attach { .. } => "attach",
            Job::Forward { .. } => "portforward",
        };
        let mut random = [0; TOKEN];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Status::internal(error.to_string()))?;
        let token = hex::encode(random);
        let mut promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner);
        promises.retain(|_, (_, since)| since.elapsed() < PROMISE);
        if promises.len() >= MAX_PROMISES {
            return Err(Status::resource_exhausted("too many streams were asked for and not used"));
        }
        promises.insert(token.clone(), (job, Instant::now()));
        Ok(format!("{}/{kind}/{token}", self.base))
    }

    fn redeem(&self, path: &str) -> Option<Job> {
        let token = path.rsplit('/').next()?;
        let mut promises = self.promises.lock().unwrap_or_else(PoisonError::into_inner);
        let (job, since) = promises.remove(token)?;
        (since.elapsed() < PROMISE).then_some(job)
    }

    async fn serve(self, listener: TcpListener, runtime: Runtime, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((tcp, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (streaming, runtime) = (self.clone(), runtime.clone());
            let service = service_fn(move |request: http::Request<Incoming>| {
                let answer = streaming.answer(request, runtime.clone());
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(tcp), service)
                .with_upgrades();
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "streaming connection");
                }
            });
        }
    }

    fn answer(&self, request: http::Request<Incoming>, runtime: Runtime) -> http::Response<Body> {
        match self.redeem(request.uri().path()) {
            Some(job) => stream::answer(request, Ok(job), runtime),
            None => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_are_good_once_and_not_for_long() {
        let streaming = Streaming { base: "http://x".into(), promises: Arc::default() };
        let job = || Job::Forward { uid: "u".into(), ports: Vec::new() };
        let promise = || streaming.promise(job()).unwrap();
        let url = promise();
        assert!(url.starts_with("http://x/portforward/"), "{url}");
        assert_eq!(streaming.redeem(&url), Some(job()));
        assert_eq!(streaming.redeem(&url), None);
        let url = promise();
        tokio::time::advance(PROMISE).await;
        assert_eq!(streaming.redeem(&url), None);
        for _ in 0..MAX_PROMISES {
            promise();
        }
        assert!(streaming.promise(job()).is_err());
    }
}
