//! Just enough of HTTP/1.1 to check an answer: status, length, `ETag`, and whether it is whole.

/// A whole answer, and nothing after it.
pub struct Answer<'a> {
    status: u16,
    head: &'a [u8],
    declared: Option<usize>,
}

/// The answer that `data` is, or `None` if there must be more.
///
/// `has_body`: whether a 200 is followed by its body, which it is not after `HEAD`.
pub fn parse(data: &[u8], has_body: bool) -> Result<Option<Answer<'_>>, String> {
    let Some(end) = data.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let mut answer = Answer { status: 0, head: &data[..end], declared: None };
    answer.status = std::str::from_utf8(data.get(9..12).unwrap_or_default())
        .ok()
        .filter(|_| data.starts_with(b"HTTP/1.1 "))
        .and_then(|digits| digits.parse().ok())
        .ok_or("not an answer in HTTP/1.1")?;
    answer.declared = answer.header("content-length").and_then(|digits| digits.parse().ok());
    let expected = match (has_body && answer.status != 304, answer.declared) {
        (false, _) => 0,
        (true, Some(length)) => length,
        (true, None) => return Err(format!("a {} without a Content-Length", answer.status)),
    };
    match data.len() - (end + 4) {
        there if there < expected => Ok(None),
        there if there == expected => Ok(Some(answer)),
        _ => Err("more bytes than the answer has".to_owned()),
    }
}

impl Answer<'_> {
    /// The value of the header of this name, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
            let (this, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            this.eq_ignore_ascii_case(name.as_bytes())
                .then(|| std::str::from_utf8(value).ok().map(str::trim))?
        })
    }

    /// A 200 must tell the length of the document, also where the body is left out.
    pub fn expect(&self, status: u16, length: usize) -> Result<(), String> {
        if self.status != status {
            return Err(format!("answered {}, not {status}", self.status));
        }
        if status == 200 && self.declared != Some(length) {
            return Err(format!("a body of {:?} bytes, not {length}", self.declared));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    const GET: &[u8] = b"HTTP/1.1 200 OK\r\netag: \"a\"\r\nContent-LENGTH: 3\r\n\r\nabc";

    #[test]
    fn an_answer_is_whole_only_with_its_last_byte() {
        for end in 0..GET.len() {
            assert!(parse(&GET[..end], true).unwrap().is_none(), "{end}");
        }
        let answer = parse(GET, true).unwrap().unwrap();
        assert_eq!(answer.header("etag"), Some("\"a\""));
        assert_eq!(answer.expect(200, 3), Ok(()));
    }

    #[test]
    fn a_wrong_answer_is_refused() {
        let answer = parse(GET, true).unwrap().unwrap();
        assert!(answer.expect(200, 4).is_err());
        assert!(answer.expect(304, 3).is_err());
        assert!(parse(GET, false).is_err(), "a body after HEAD");
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n", true).is_err(), "no length");
        assert!(parse(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", true).is_err());
    }

    #[test]
    fn a_304_and_the_answer_to_head_have_no_body() {
        let head = &GET[..GET.len() - 3];
        assert_eq!(parse(head, false).unwrap().unwrap().expect(200, 3), Ok(()));
        let unchanged = parse(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", true);
        assert_eq!(unchanged.unwrap().unwrap().expect(304, 3), Ok(()));
    }
}
