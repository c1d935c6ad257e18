//! `[p]` SPDY/3 header blocks: pairs of names and values, compressed with a dictionary that both sides know.
//!
//! Blocks of one direction are one zlib stream. Ours is made of stored blocks: headers that we send are few and small.
//! Not for: frames around a block.

use std::sync::LazyLock;

use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_HAS_MORE_INPUT},
};

use super::frame::SpdyError;

/// The draft's dictionary (SPDY/3, 2.6.10.1): words behind their lengths, and a tail of common values.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,\
publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut all = Vec::with_capacity(1423);
    for word in WORDS {
        all.extend(u32::try_from(word.len()).unwrap_or(0).to_be_bytes());
        all.extend(word.as_bytes());
    }
    all.extend(TAIL.as_bytes());
    all
});

/// Its Adler-32, which a zlib stream that uses it begins with.
const CHECKSUM: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];
/// The kernel of zlib: how far back a stream may refer.
const WINDOW: usize = 32 << 10;
/// Most bytes of one block, unpacked: clients send a few hundred.
const MAX_BLOCK: usize = 64 << 10;
/// Most pairs in it.
const MAX_PAIRS: usize = 256;

/// Names (lower case) and values of one block.
pub(crate) type Headers = Vec<(String, String)>;

/// Unpacks the blocks of one direction, in their order.
pub(crate) struct Inflater {
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    at: usize,
    begun: bool,
}

impl Inflater {
    pub(crate) fn new() -> Self {
        Self { state: Box::default(), window: Vec::new(), at: 0, begun: false }
    }

    /// The next block. Each has to go through here, also one that nobody wants: the stream goes on behind it.
    pub(crate) fn block(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let mut packed = packed;
        if !self.begun {
            packed = self.begin(packed)?;
        }
        let mut unpacked = Vec::new();
        loop {
            let (status, read, written) =
                decompress(&mut self.state, packed, &mut self.window, self.at, TINFL_FLAG_HAS_MORE_INPUT);
            unpacked.extend(&self.window[self.at..self.at + written]);
            self.at = (self.at + written) % WINDOW;
            packed = &packed[read..];
            if unpacked.len() > MAX_BLOCK {
                return Err(SpdyError::Headers("too many"));
            }
            match status {
                TINFLStatus::HasMoreOutput => {}
                TINFLStatus::NeedsMoreInput => return parse(&unpacked),
                _ => return Err(SpdyError::Headers("not a zlib stream")),
            }
        }
    }

    /// The header of the stream, which says that the dictionary is used.
    fn begin<'a>(&mut self, packed: &'a [u8]) -> Result<&'a [u8], SpdyError> {
        let broken = SpdyError::Headers("not a zlib stream");
        let ([method, flags], rest) = packed.split_first_chunk().ok_or(broken.clone())?;
        let checked = (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0;
        if method & 0x0f != 8 || !checked {
            return Err(broken);
        }
        self.window = vec![0; WINDOW];
        self.begun = true;
        if flags & 0x20 == 0 {
            return Ok(rest);
        }
        let (checksum, rest) = rest.split_first_chunk().ok_or(broken)?;
        if *checksum != CHECKSUM {
            return Err(SpdyError::Headers("another dictionary"));
        }
        self.window[..DICTIONARY.len()].copy_from_slice(&DICTIONARY);
        self.at = DICTIONARY.len();
        Ok(rest)
    }
}

fn parse(block: &[u8]) -> Result<Headers, SpdyError> {
    fn number(block: &mut &[u8]) -> Result<usize, SpdyError> {
        let (number, rest) = block.split_first_chunk::<4>().ok_or(SpdyError::Headers("cut off"))?;
        *block = rest;
        usize::try_from(u32::from_be_bytes(*number)).map_err(|_| SpdyError::Headers("too many"))
    }
    fn text(block: &mut &[u8]) -> Result<String, SpdyError> {
        let length = number(block)?;
        let (text, rest) = block.split_at_checked(length).ok_or(SpdyError::Headers("cut off"))?;
        *block = rest;
        String::from_utf8(text.to_vec()).map_err(|_| SpdyError::Headers("not text"))
    }
    let mut block = block;
    let pairs = number(&mut block)?;
    if pairs > MAX_PAIRS {
        return Err(SpdyError::Headers("too many"));
    }
    (0..pairs).map(|_| Ok((text(&mut block)?.to_ascii_lowercase(), text(&mut block)?))).collect()
}

/// An empty block as part of a stream; the first of a stream says so.
pub(crate) fn empty(first: bool) -> Vec<u8> {
    let mut packed = Vec::new();
    if first {
        packed.extend([0x78, 0xbb]);
        packed.extend(CHECKSUM);
    }
    // One stored deflate block, not the last, of four bytes: no pairs.
    packed.extend([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
    // And an empty one: Go's inflater hands out nothing before it sees the mark of a flush.
    packed.extend([0, 0, 0, 0xff, 0xff]);
    packed
}

#[cfg(test)]
pub(crate) mod tests {
    use miniz_oxide::deflate::core::{
        CompressorOxide, TDEFLFlush, compress_to_output, create_comp_flags_from_zip_params,
    };

    use super::*;

    /// What a client of ours would send, without the dictionary's help.
    pub(crate) struct Deflater(CompressorOxide, bool);

    impl Deflater {
        pub(crate) fn new() -> Self {
            Self(CompressorOxide::new(create_comp_flags_from_zip_params(6, -15, 0)), false)
        }

        pub(crate) fn block(&mut self, pairs: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
            for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                plain.extend(text.as_bytes());
            }
            let mut packed = Vec::new();
            if !std::mem::replace(&mut self.1, true) {
                packed.extend([0x78, 0xbb]);
                packed.extend(CHECKSUM);
            }
            compress_to_output(&mut self.0, &plain, TDEFLFlush::Sync, |bytes| {
                packed.extend(bytes);
                true
            });
            packed
        }
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((DICTIONARY.len(), (b << 16 | a).to_be_bytes()), (1423, CHECKSUM));
    }

    #[test]
    fn blocks_are_one_stream() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        for n in 0..3000 {
            let port = n.to_string();
            let block = deflater.block(&[("streamType", "data"), ("port", &port), ("requestID", &port)]);
            let expected = [("streamtype", "data"), ("port", &port), ("requestid", &port)];
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(inflater.block(&block).unwrap(), expected);
        }
    }

    /// What Go's compress/zlib makes of one pair: nearly all of it refers into the dictionary.
    #[test]
    fn references_into_the_dictionary_are_followed() {
        let block = [
            0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2, 0x62, 0x60, 0x60, 0x60, 0xc4, 0x52, 0x98, 0x70, 0x21, 0x5c,
            0x01, 0, 0, 0, 0xff, 0xff,
        ];
        let got = Inflater::new().block(&block).unwrap();
        assert_eq!(got, [("content-type".to_owned(), "text/plain".to_owned())]);
    }

    #[test]
    fn our_empty_block_is_understood() {
        let mut inflater = Inflater::new();
        assert_eq!(inflater.block(&empty(true)).unwrap(), []);
        assert_eq!(inflater.block(&empty(false)).unwrap(), []);
    }

    #[test]
    fn bombs_and_nonsense_are_refused() {
        let check = |packed: &[u8], expected: &str| {
            let error = Inflater::new().block(packed).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(&[], "header block: not a zlib stream");
        check(&[0x78, 0xbc, 0, 0], "header block: not a zlib stream");
        check(&[0x78, 0xbb, 1, 2, 3, 4], "header block: another dictionary");
        let long = "x".repeat(MAX_BLOCK);
        check(&Deflater::new().block(&[("a", &long)]), "header block: too many");
        let many = vec![("a", "b"); MAX_PAIRS + 1];
        check(&Deflater::new().block(&many), "header block: too many");
        let mut cut = Deflater::new().block(&[("a", "b")]);
        cut.truncate(9);
        check(&cut, "header block: cut off");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let mut inflater = Inflater::new();
            let mut block = vec![0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2];
            block.extend(&bytes);
            drop(inflater.block(&block));
            drop(inflater.block(&bytes));
        }
    }
}
