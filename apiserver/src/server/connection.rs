//! One TLS connection: who it is, then requests until either side ends it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::auth::Identity;
use crate::rest::Api;
use crate::rest::body::{self, Body};
use crate::rest::status::Failure;

/// How long a client may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// When an idle connection is asked whether its peer is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// What to do when accepting fails for want of resources.
const BREATHE: Duration = Duration::from_millis(100);

/// Accepts connections until `stopped`, then waits for the open ones, but not longer than `drain`.
pub(super) async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    api: &Arc<Api>,
    stopped: impl Future<Output = ()>,
    drain: Duration,
) {
    let graceful = GracefulShutdown::new();
    tokio::pin!(stopped);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(BREATHE).await;
                    continue;
                }
            },
            () = &mut stopped => break,
        };
        tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(api), graceful.watcher()));
    }
    drop(listener);
    api.closing.cancel();
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::info!("some connections did not end in time");
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, api: Arc<Api>, watcher: Watcher) {
    // Without it small answers wait for the client's acknowledgements.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection without TCP_NODELAY");
    }
    // Watches are silent for long: without it those of vanished machines would stay for ever.
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    if let Err(error) = socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "connection without keepalive");
    }
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
    let handshake = tokio::select! {
        done = handshake => done,
        () = api.closing.cancelled() => return,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(|chain| certificate_identity(chain.first()?));
    let service = service_fn(|request: Request<Incoming>| {
        let (api, peer) = (Arc::clone(&api), peer.clone());
        async move { Ok::<_, Infallible>(answer(&api, request, peer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(api: &Arc<Api>, request: Request<Incoming>, peer: Option<Identity>) -> Response<Body> {
    let bearer = request.headers().get(AUTHORIZATION).map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.strip_prefix("Bearer ").map(str::trim).unwrap_or_default().to_owned()
    });
    let identity = match (peer, bearer) {
        (Some(identity), _) => identity,
        (None, None) => Identity::anonymous(),
        (None, Some(token)) => match api.authenticate(&token) {
            Some(identity) => identity,
            None => return body::failure(&Failure::unauthorized()),
        },
    };
    api.handle(request, identity).await
}

/// CN is the user, O are the groups.
fn certificate_identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    Some(Identity::new(user, groups))
}
