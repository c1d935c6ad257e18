//! `grpc.health.v1.Health/Check` over one plain HTTP/2 connection; the two messages are small enough to be spelled out.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http2, header};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http::connect;

const SERVING: u64 = 1;

/// Why the service does not count as healthy; the text is for users.
pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let late = || {
        let within = crate::pod::words::go_duration(timeout);
        format!("timeout: failed to connect service \"{place}\" within {within}: context deadline exceeded")
    };
    let stream = match tokio::time::timeout(timeout, connect(host, port)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(format!(
                "error: failed to connect service at \"{place}\": connection error: desc = \"transport: Error while \
                 dialing: {error}\""
            ));
        }
        Err(_) => return Err(late()),
    };
    let exchange = exchange(TokioIo::new(stream), &place, service);
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "timeout: health rpc did not complete within {}",
            crate::pod::words::go_duration(timeout)
        )),
    }
}

async fn exchange(stream: TokioIo<tokio::net::TcpStream>, place: &str, service: &str) -> Result<(), String> {
    let failed = |error: hyper::Error| format!("error: health rpc failed: {error}");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.map_err(failed)?;
    let exchange = async {
        let request = Request::post(format!("http://{place}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, "kube-probe/1.34")
            .body(Full::new(question(service)))
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let in_headers = grpc_status(response.headers());
        let body = response.into_body().collect().await.map_err(failed)?;
        let in_trailers = body.trailers().and_then(grpc_status);
        let answer = body.to_bytes();
        judge(in_trailers.or(in_headers), &answer)
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    let mut open = true;
    loop {
        tokio::select! {
            result = &mut exchange => return result,
            _ = &mut connection, if open => open = false,
        }
    }
}

fn grpc_status(headers: &hyper::HeaderMap) -> Option<(u16, String)> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Some((text("grpc-status")?.parse().ok()?, text("grpc-message").unwrap_or_default().to_owned()))
}

/// A message behind its flag and length.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

fn varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.put_u8(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
        value >>= 7;
    }
    out.put_u8(u8::try_from(value).unwrap_or_default());
}

fn judge(status: Option<(u16, String)>, answer: &[u8]) -> Result<(), String> {
    match status {
        Some((0, _)) | None => {}
        Some((12, _)) => {
            return Err("error: this server does not implement the grpc health protocol \
                        (grpc.health.v1.Health): rpc error: code = Unimplemented"
                .into());
        }
        Some((code, message)) => {
            return Err(format!("error: health rpc failed: rpc error: code = {code} desc = {message}"));
        }
    }
    let word = match health(answer) {
        Some(SERVING) => return Ok(()),
        Some(2) => "NOT_SERVING",
        Some(3) => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    };
    Err(format!("service unhealthy (responded with \"{word}\")"))
}

/// Field 1 of the answer, a number; absent means 0.
fn health(answer: &[u8]) -> Option<u64> {
    let message = answer.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_and_answer_on_the_wire() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(judge(Some((0, String::new())), &[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        let not_serving = judge(Some((0, String::new())), &[0, 0, 0, 0, 2, 8, 2]).unwrap_err();
        assert_eq!(not_serving, "service unhealthy (responded with \"NOT_SERVING\")");
    }

    #[tokio::test]
    async fn a_server_that_is_healthy_and_one_that_is_not_there() {
        use hyper::{Response, body::Incoming, server::conn::http2 as server, service::service_fn};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await?.to_bytes();
                let health = if asked.ends_with(b"good") { 1 } else { 2 };
                let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, health]));
                Ok::<_, hyper::Error>(Response::builder().header("grpc-status", "0").body(body).unwrap())
            });
            server::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
        let second = Duration::from_secs(1);
        assert_eq!(check("127.0.0.1", port, "good", second).await, Ok(()));
        let refused = check("127.0.0.1", 1, "", second).await.unwrap_err();
        assert!(refused.contains("dial tcp 127.0.0.1:1: connect: connection refused"), "{refused}");
    }
}
