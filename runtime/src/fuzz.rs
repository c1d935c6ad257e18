//! All that strangers' bytes reach first, as functions that must hold for any bytes: for the fuzz targets (`fuzz/`) and
//! for property tests, which run always. Not part of the product.

use orlop_shim::{
    protocol::{MAX_FRAME, Request, Response, next_frame},
    records::{ExitRecord, PidRecord, ProcessSpec},
    report::{self, Outcome},
};

pub use crate::{
    image::fuzz::{layer, manifest, reference},
    seccomp::fuzz::profile,
};

/// What a shim hears from a client and a client from a shim: frames are the same however they arrive, and a message
/// that is understood says the same when it is said again.
pub fn shim_frames(bytes: &[u8]) {
    let whole = frames(&mut bytes.to_vec(), bytes.len());
    let piece = usize::from(bytes.last().copied().unwrap_or(0)) + 1;
    let mut arrived = Vec::new();
    let mut buffer = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        arrived.extend(frames(&mut buffer, bytes.len()));
    }
    assert_eq!(arrived, whole);
    // Most bytes are no frame: they are tried as one, too.
    for frame in whole.iter().map(Vec::as_slice).chain([bytes]) {
        said_again(frame);
    }
}

/// All whole frames at the front of a buffer.
fn frames(buffer: &mut Vec<u8>, all: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Ok(Some(frame)) = next_frame(buffer) {
        assert!(frame.len() <= MAX_FRAME && frame.len() + 4 <= all);
        found.push(frame);
    }
    found
}

fn said_again(frame: &[u8]) {
    let unframed = |mut bytes: Vec<u8>| next_frame(&mut bytes).ok().flatten().expect("our own frame");
    if let Ok((number, Ok(request))) = Request::parse(frame) {
        assert_eq!(Request::parse(&unframed(request.frame(number))), Ok((number, Ok(request))));
    }
    if let Ok((number, response)) = Response::parse(frame) {
        assert_eq!(Response::parse(&unframed(response.frame(number))), Ok((number, response)));
    }
}

/// What lies in a pod's directory, and what a creator tells.
pub fn shim_records(bytes: &[u8]) {
    if let Ok(process) = ProcessSpec::from_bytes(bytes) {
        assert_eq!(ProcessSpec::from_bytes(&process.to_bytes()), Ok(process));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Some(exit) = ExitRecord::from_text(text) {
            assert_eq!(ExitRecord::from_text(&exit.to_text()), Some(exit));
        }
        if let Some(pid) = PidRecord::from_text(text) {
            assert_eq!(PidRecord::from_text(&pid.to_text()), Some(pid));
        }
    }
    // What failed once has failed, whatever is said later; and a pid is only believed when nothing failed.
    let outcome = report::outcome(bytes);
    if report::has_failed(bytes) {
        assert!(matches!(outcome, Outcome::Failed(..)));
    }
    if let Outcome::Runs(pid) = outcome {
        assert_eq!(report::pid(bytes), Some(pid));
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// A frame that begins as messages do.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let fields = vec(prop_oneof![Just(0_u8), Just(1), Just(2), any::<u8>()], 0..60);
        (0_u8..16, any::<u32>(), fields).prop_map(|(kind, number, fields)| {
            let mut frame = vec![kind];
            frame.extend(number.to_le_bytes());
            frame.extend(fields);
            let mut bytes = u32::try_from(frame.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend(frame);
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_frames_or_none(bytes in vec(any::<u8>(), 0..300)) {
            shim_frames(&bytes);
        }

        #[test]
        fn messages_say_the_same_again(messages in vec(message(), 0..6)) {
            shim_frames(&messages.concat());
        }

        #[test]
        fn any_bytes_are_records_or_none(bytes in vec(any::<u8>(), 0..300)) {
            shim_records(&bytes);
        }

        #[test]
        fn records_in_words_are_records_or_none(text in "([0-9]{1,20}|-|PE|[PE]) ?([0-9]{1,12}[ \n]){0,6}") {
            shim_records(text.as_bytes());
        }
    }
}
