//! `[p]` SPDY/3.1 frames, as far as clients of Kubernetes use them.
//!
//! Data is handed on in pieces as it arrives, so that no frame has to fit into memory. Windows are not spoken of: no
//! peer keeps to them, and the connection itself holds back who writes too much. Not for: what streams are for.

use bytes::{Buf as _, Bytes, BytesMut};

use super::header::{self, Headers, Inflater};

/// Largest control frame: headers and settings.
const MAX_CONTROL: usize = 64 << 10;
/// Most data in a frame of ours.
pub(crate) const MAX_DATA: usize = 32 << 10;

/// A peer that does not speak SPDY/3.1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    /// Control frame of another version.
    #[error("SPDY version {0}")]
    Version(u16),
    /// Longer than anything in use.
    #[error("control frame of {0} bytes")]
    TooLong(usize),
    /// Too short for its kind.
    #[error("control frame of kind {0} is cut off")]
    Cut(u16),
    /// Compression, number or text of headers.
    #[error("header block: {0}")]
    Headers(&'static str),
}

/// What a peer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a stream.
    Open { id: u32, headers: Headers, fin: bool },
    /// Data of a stream; `fin` with the last piece of a frame that says so.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// The stream is over.
    Reset { id: u32 },
    /// To be sent back.
    Ping(u32),
    /// No more streams.
    GoAway,
}

/// Status of a reset: the stream is not wanted.
pub(crate) const REFUSED: u32 = 3;
/// Status of a reset: it is over before its end.
pub(crate) const CANCEL: u32 = 5;

const OPEN: u16 = 1;
const REPLY: u16 = 2;
const RESET: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;

/// Takes frames off what was received.
pub(crate) struct Decoder {
    inflater: Inflater,
    /// Stream, bytes left and flag of a data frame that is on its way.
    data: Option<(u32, usize, bool)>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { inflater: Inflater::new(), data: None }
    }

    /// The next frame of interest; `None` when more has to arrive first.
    pub(crate) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some((id, left, fin)) = self.data {
                if left > 0 && input.is_empty() {
                    return Ok(None);
                }
                let bytes = input.split_to(left.min(input.len())).freeze();
                let left = left - bytes.len();
                self.data = (left > 0).then_some((id, left, fin));
                return Ok(Some(Frame::Data { id, bytes, fin: fin && left == 0 }));
            }
            let Some(head) = input.first_chunk::<8>() else { return Ok(None) };
            let [a, b, c, d, flags, rest @ ..] = *head;
            let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
            if a & 0x80 == 0 {
                input.advance(8);
                self.data = Some((u32::from_be_bytes([a, b, c, d]), length, flags & FIN != 0));
                continue;
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != 3 {
                return Err(SpdyError::Version(version));
            }
            if length > MAX_CONTROL {
                return Err(SpdyError::TooLong(length));
            }
            if input.len() < 8 + length {
                return Ok(None);
            }
            input.advance(8);
            let payload = input.split_to(length).freeze();
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), flags, payload)? {
                return Ok(Some(frame));
            }
        }
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Option<Frame>, SpdyError> {
        let mut number = || payload.try_get_u32().map_err(|_| SpdyError::Cut(kind));
        Ok(match kind {
            OPEN => {
                let id = number()? & 0x7fff_ffff;
                let _associated = number()?;
                let block = payload.get(2..).ok_or(SpdyError::Cut(kind))?;
                Some(Frame::Open { id, headers: self.inflater.block(block)?, fin: flags & FIN != 0 })
            }
            // Nobody looks at these, but the compression goes on behind them.
            REPLY | HEADERS => {
                number()?;
                self.inflater.block(&payload)?;
                None
            }
            RESET => Some(Frame::Reset { id: number()? & 0x7fff_ffff }),
            PING => Some(Frame::Ping(number()?)),
            GO_AWAY => Some(Frame::GoAway),
            // Settings, windows and whatever else.
            _ => None,
        })
    }
}

/// Writes our frames.
#[derive(Default)]
pub(crate) struct Encoder {
    begun: bool,
}

impl Encoder {
    /// Accepts a stream. Has to be sent in the order in which it is asked for.
    pub(crate) fn reply(&mut self, id: u32) -> Vec<u8> {
        let block = header::empty(!std::mem::replace(&mut self.begun, true));
        control(REPLY, &[&id.to_be_bytes(), &block])
    }
}

/// Not more than [`MAX_DATA`] bytes.
pub(crate) fn data(id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let mut frame = Vec::with_capacity(8 + bytes.len());
    frame.extend((id & 0x7fff_ffff).to_be_bytes());
    frame.push(u8::from(fin));
    frame.extend(length(bytes.len()));
    frame.extend(bytes);
    frame
}

pub(crate) fn reset(id: u32, status: u32) -> Vec<u8> {
    control(RESET, &[&id.to_be_bytes(), &status.to_be_bytes()])
}

pub(crate) fn ping(number: u32) -> Vec<u8> {
    control(PING, &[&number.to_be_bytes()])
}

/// The last that is said.
pub(crate) fn go_away(last: u32) -> Vec<u8> {
    control(GO_AWAY, &[&last.to_be_bytes(), &0_u32.to_be_bytes()])
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let payload = parts.concat();
    let mut frame = vec![0x80, 3];
    frame.extend(kind.to_be_bytes());
    frame.push(0);
    frame.extend(length(payload.len()));
    frame.extend(payload);
    frame
}

fn length(length: usize) -> [u8; 3] {
    let [.., a, b, c] = u32::try_from(length).unwrap_or(0xff_ffff).to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::{super::header::tests::Deflater, *};

    fn open(deflater: &mut Deflater, id: u32, pairs: &[(&str, &str)], flags: u8) -> Vec<u8> {
        let block = deflater.block(pairs);
        let mut frame = control(OPEN, &[&id.to_be_bytes(), &0_u32.to_be_bytes(), &[0, 0], &block]);
        frame[4] = flags;
        frame
    }

    fn all(decoder: &mut Decoder, input: &mut BytesMut) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(frame) = decoder.next(input).unwrap() {
            seen.push(format!("{frame:?}"));
        }
        seen
    }

    fn conversation() -> Vec<u8> {
        let mut deflater = Deflater::new();
        [
            open(&mut deflater, 1, &[("streamType", "error")], FIN),
            control(4, &[&[0, 0, 0, 0]]),
            open(&mut deflater, 3, &[("streamType", "stdin")], 0),
            data(3, b"hello", false),
            ping(7),
            data(3, b"", true),
            reset(1, CANCEL),
            go_away(3),
        ]
        .concat()
    }

    #[test]
    fn a_conversation_is_understood() {
        let seen = all(&mut Decoder::new(), &mut BytesMut::from(&conversation()[..]));
        expect_test::expect![[r#"
            Open { id: 1, headers: [("streamtype", "error")], fin: true }
            Open { id: 3, headers: [("streamtype", "stdin")], fin: false }
            Data { id: 3, bytes: b"hello", fin: false }
            Ping(7)
            Data { id: 3, bytes: b"", fin: true }
            Reset { id: 1 }
            GoAway"#]]
        .assert_eq(&seen.join("\n"));
    }

    #[test]
    fn it_may_arrive_byte_by_byte() {
        let (mut decoder, mut input) = (Decoder::new(), BytesMut::new());
        let mut seen = Vec::new();
        for byte in conversation() {
            input.extend([byte]);
            seen.extend(all(&mut decoder, &mut input));
        }
        assert_eq!(seen.iter().filter(|frame| frame.contains("Data")).count(), 6, "{seen:#?}");
        assert_eq!(seen.last().unwrap(), "GoAway");
    }

    #[test]
    fn what_is_no_spdy_is_refused() {
        let check = |bytes: &[u8], expected: &str| {
            let error = Decoder::new().next(&mut BytesMut::from(bytes)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(b"\x80\x02\0\x01\0\0\0\0", "SPDY version 2");
        check(b"\x80\x03\0\x01\0\xff\xff\xff", "control frame of 16777215 bytes");
        check(&control(PING, &[&[1]]), "control frame of kind 6 is cut off");
        check(&control(OPEN, &[&[0; 9]]), "control frame of kind 1 is cut off");
    }

    #[test]
    fn our_replies_are_one_stream() {
        let mut encoder = Encoder::default();
        let mut input = BytesMut::from(&[encoder.reply(1), encoder.reply(3), ping(1)].concat()[..]);
        assert_eq!(all(&mut Decoder::new(), &mut input), ["Ping(1)"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
            let (mut decoder, mut input) = (Decoder::new(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = decoder.next(&mut input) {}
        }
    }
}
