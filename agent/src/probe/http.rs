//! HTTP as probes and hooks speak it: GET, one connection, no proxy, no certificate check, at most 10 KiB of body.

use std::{fmt, io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{target::HttpTarget, tls};

const MAX_BODY: usize = 10 << 10;
const MAX_REDIRECTS: usize = 10;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// A redirect to another host was not followed.
    pub(crate) stopped: bool,
}

/// No answer; the text is as Go's client has it.
#[derive(Debug)]
pub(crate) struct HttpFailure {
    url: String,
    error: String,
}

impl fmt::Display for HttpFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Get \"{}\": {}", self.url, self.error)
    }
}

impl HttpFailure {
    /// The time-out of a probe.
    pub(crate) fn timed_out(target: &HttpTarget) -> HttpFailure {
        let error = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into();
        HttpFailure { url: target.url(), error }
    }
}

/// One GET, following redirects on the same host.
pub(crate) async fn get(target: &HttpTarget) -> Result<Answer, HttpFailure> {
    let mut target = target.clone();
    for _ in 0..MAX_REDIRECTS {
        let fail = |error: String| HttpFailure { url: target.url(), error };
        let (answer, location) = once(&target).await.map_err(fail)?;
        let moved = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
        let Some(location) = location.filter(|_| moved) else { return Ok(answer) };
        match follow(&target, &location) {
            Some(next) if next.host == target.host => target = next,
            Some(_) => return Ok(Answer { stopped: true, ..answer }),
            None => return Ok(answer),
        }
    }
    Err(HttpFailure { url: target.url(), error: "stopped after 10 redirects".into() })
}

fn follow(from: &HttpTarget, location: &str) -> Option<HttpTarget> {
    let uri: Uri = location.parse().ok()?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let Some(host) = uri.host() else { return Some(HttpTarget { path, ..from.clone() }) };
    let https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(HttpTarget { https, host, port, path, ..from.clone() })
}

async fn once(target: &HttpTarget) -> Result<(Answer, Option<String>), String> {
    let stream = connect(&target.host, target.port).await?;
    if target.https {
        let stream = tls::connect(stream, &target.host).await?;
        exchange(target, stream).await
    } else {
        exchange(target, stream).await
    }
}

async fn exchange(
    target: &HttpTarget,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(Answer, Option<String>), String> {
    let text = |error: &dyn std::error::Error| match error.source() {
        Some(source) => source.to_string(),
        None => error.to_string(),
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let mut request = Request::get(&target.path);
    if !target.headers.contains_key("host") {
        request = request.header(header::HOST, target.authority());
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    if target.close {
        request = request.header(header::CONNECTION, "close");
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
            if bytes.len() >= MAX_BODY {
                bytes.truncate(MAX_BODY);
                break;
            }
        }
        let location = head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let body = String::from_utf8_lossy(&bytes).into_owned();
        let answer = Answer { status: head.status.as_u16(), body, stopped: false };
        Ok((answer, location.map(Into::into)))
    };
    // The connection is driven only as long as the exchange needs it.
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

/// A connection whose end leaves no trace in TIME_WAIT for long.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match TcpStream::connect((host, port)).await {
        Ok(stream) => {
            // Without it the connection ends as the kernel does by default: nothing that matters here.
            let _default = socket2::SockRef::from(&stream).set_linger(Some(Duration::from_secs(1)));
            Ok(stream)
        }
        Err(error) => Err(format!("dial tcp {place}: {}", dial_error(&error))),
    }
}

/// As Go prints the errors of connect(2).
fn dial_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::ConnectionReset => "connect: connection reset by peer".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn serve(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        port
    }

    fn target(port: u16) -> HttpTarget {
        HttpTarget {
            https: false,
            host: "127.0.0.1".into(),
            port,
            path: "/x?y=1".into(),
            headers: BTreeMap::new(),
            close: true,
        }
    }

    #[tokio::test]
    async fn answer_with_body() {
        let port = serve(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]).await;
        let answer = get(&target(port)).await.unwrap();
        assert_eq!((answer.status, &*answer.body, answer.stopped), (200, "ok", false));
    }

    #[tokio::test]
    async fn redirect_on_the_same_host_is_followed() {
        let port = serve(&[
            "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ])
        .await;
        assert_eq!(get(&target(port)).await.unwrap().status, 204);
    }

    #[tokio::test]
    async fn redirect_to_another_host_is_not() {
        let port = serve(&[
            "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n",
        ])
        .await;
        assert!(get(&target(port)).await.unwrap().stopped);
    }

    #[tokio::test]
    async fn refusal_reads_as_in_go() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = get(&target(port)).await.unwrap_err().to_string();
        let place = format!("127.0.0.1:{port}");
        let expected = format!("Get \"http://{place}/x?y=1\": dial tcp {place}: connect: connection refused");
        assert_eq!(error, expected);
    }
}
