//! A request as people have it: a curl line, a URL, METHOD URL, a line of an access log in JSON.

use serde_json::Value;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) headers: Vec<(String, String)>,
}

/// curl's flags with a value that says nothing about the route.
const WITH_VALUE: &[&str] = &[
    "-o",
    "--output",
    "-m",
    "--max-time",
    "--connect-timeout",
    "-w",
    "--write-out",
    "--cacert",
    "--cert",
    "-E",
    "--key",
    "-u",
    "--user",
    "--resolve",
    "--connect-to",
    "-x",
    "--proxy",
    "--retry",
    "-T",
    "--upload-file",
    "--interface",
    "--unix-socket",
    "-c",
    "--cookie-jar",
    "-D",
    "--dump-header",
    "--ciphers",
    "--tls-max",
    "--max-redirs",
];
/// curl's flags that make a POST.
const DATA: &[&str] = &[
    "-d",
    "--data",
    "--data-raw",
    "--data-binary",
    "--data-urlencode",
    "--json",
    "-F",
    "--form",
];

/// Read a request.
pub(super) fn read(text: &str) -> Result<Request, String> {
    if text.starts_with('{') {
        return from_access_log(text);
    }
    let words = words(text)?;
    match words.split_first() {
        Some((curl, rest)) if curl == "curl" || curl.ends_with("/curl") => from_curl(rest),
        Some((url, [])) => Ok(Request {
            method: "GET".to_owned(),
            url: url.clone(),
            headers: Vec::new(),
        }),
        Some((method, rest)) if method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') => {
            // Flags of curl may follow, as in `POST URL -H "a: b"`.
            let request = from_curl(rest)?;
            Ok(Request {
                method: method.clone(),
                ..request
            })
        }
        Some((_, rest)) if rest.iter().any(|word| word.starts_with('-')) => from_curl(&words),
        _ => Err(format!(
            "found {text:?}, expected a curl line, a URL, METHOD URL or a line of an access log in JSON"
        )),
    }
}

fn from_curl(words: &[String]) -> Result<Request, String> {
    let (mut method, mut url, mut host) = (None, None, None);
    let mut headers = Vec::new();
    let mut has_data = false;
    let mut is_get = false;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, joined) = split_flag(word);
        let mut value = || {
            joined
                .clone()
                .or_else(|| words.next().cloned())
                .ok_or_else(|| format!("{flag} has no value"))
        };
        match flag {
            "-X" | "--request" => method = Some(value()?),
            "-I" | "--head" => method = Some("HEAD".to_owned()),
            "-G" | "--get" => is_get = true,
            "--url" => url = Some(value()?),
            "-H" | "--header" => {
                let header = value()?;
                let Some((name, value)) = header.split_once(':') else {
                    continue;
                };
                match name.trim().to_ascii_lowercase().as_str() {
                    "host" => host = Some(value.trim().to_owned()),
                    name => headers.push((name.to_owned(), value.trim().to_owned())),
                }
            }
            "-A" | "--user-agent" => headers.push(("user-agent".to_owned(), value()?)),
            "-e" | "--referer" => headers.push(("referer".to_owned(), value()?)),
            "-b" | "--cookie" => headers.push(("cookie".to_owned(), value()?)),
            flag if DATA.contains(&flag) => {
                value()?;
                has_data = true;
            }
            flag if WITH_VALUE.contains(&flag) => {
                value()?;
            }
            flag if flag.starts_with('-') => {}
            _ => url = Some(word.clone()),
        }
    }
    let url = url.ok_or("the request has no URL")?;
    let by_data = if has_data && !is_get { "POST" } else { "GET" };
    Ok(Request {
        method: method.unwrap_or_else(|| by_data.to_owned()),
        url: match host {
            Some(host) => with_host(&url, &host),
            None => without_fragment(&url).to_owned(),
        },
        headers,
    })
}

/// The flag, and the value that is joined to it: `-XPOST`, `--request=POST`.
fn split_flag(word: &str) -> (&str, Option<String>) {
    if let Some((flag, value)) = word.split_once('=').filter(|(flag, _)| flag.starts_with("--")) {
        return (flag, Some(value.to_owned()));
    }
    let takes_value = ["-X", "-H", "-A", "-e", "-b", "-d", "-o", "-m", "-u", "-w"];
    match word
        .get(..2)
        .filter(|flag| takes_value.contains(flag) && word.len() > 2)
    {
        Some(flag) => (flag, word.get(2..).map(str::to_owned)),
        None => (word, None),
    }
}

/// No client sends the fragment of a URL.
fn without_fragment(url: &str) -> &str {
    url.split('#').next().unwrap_or_default()
}

/// The URL with the host of a Host header.
fn with_host(url: &str, host: &str) -> String {
    let url = without_fragment(url);
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let path = rest.find(['/', '?']).map_or("", |start| &rest[start..]);
    match scheme {
        "" => format!("{host}{path}"),
        scheme => format!("{scheme}://{host}{path}"),
    }
}

/// A line of an access log: the fields that Envoy's default JSON formats and other proxies use.
fn from_access_log(text: &str) -> Result<Request, String> {
    let line: Value = serde_json::from_str(text).map_err(|error| format!("the line is no JSON: {error}"))?;
    let field = |names: &[&str]| names.iter().find_map(|name| line[*name].as_str()).map(str::to_owned);
    let path = field(&["path", ":path", "x_envoy_original_path", "request_path", "uri", "url"]);
    let path = path.ok_or("the line has no path, expected a field such as \"path\"")?;
    let host = field(&["authority", ":authority", "host", "request_authority", "http_host"]).unwrap_or_default();
    if host.is_empty() {
        return Err("the line has no host, expected a field such as \"authority\"".to_owned());
    }
    let scheme =
        field(&["scheme", ":scheme", "x_forwarded_proto"]).filter(|scheme| scheme == "http" || scheme == "https");
    let url = format!("{host}{path}");
    let user_agent = field(&["user_agent", "user-agent"]);
    Ok(Request {
        method: field(&["method", ":method", "request_method"]).unwrap_or_else(|| "GET".to_owned()),
        url: match scheme {
            Some(scheme) => format!("{scheme}://{url}"),
            None => url,
        },
        headers: user_agent
            .map(|value| ("user-agent".to_owned(), value))
            .into_iter()
            .collect(),
    })
}

/// A word as [`words`] reads it.
pub(super) fn quoted(word: &str) -> String {
    match word.is_empty() || word.contains([' ', '"', '\'', '\\', '\n', '\t']) {
        true => format!("'{}'", word.replace('\'', r"'\''")),
        false => word.to_owned(),
    }
}

/// The words of a shell's line: quotes and backslashes are resolved, variables are not.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(letter) => word.push(letter),
                        None => return Err("a quote ' is not closed".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('"') => break,
                        Some('\\') => word.extend(letters.next()),
                        Some(letter) => word.push(letter),
                        None => return Err("a quote \" is not closed".to_owned()),
                    }
                }
            }
            '\\' => match letters.next() {
                Some('\n') | None => {}
                Some(letter) => word.get_or_insert_default().push(letter),
            },
            letter if letter.is_whitespace() => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Request, String> {
        Ok(Request {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        })
    }

    #[test]
    fn a_request_is_read_as_people_have_it() {
        let url = "https://api.example.com/v1/orders/7";
        let canary = [("x-env-tag", "canary")];
        let line = format!("curl -X POST {url} -H \"x-env-tag: canary\"");
        assert_eq!(read(&line), request("POST", url, &canary));
        assert_eq!(
            read(&format!("curl -sS -XPOST --header='X-Env-Tag: canary' {url}#top")),
            request("POST", url, &canary)
        );
        assert_eq!(
            read(&format!("curl {url} \\\n  -d '{{\"a\": 1}}' -o /dev/null")),
            request("POST", url, &[])
        );
        assert_eq!(read(&format!("curl -I {url}")), request("HEAD", url, &[]));
        let by_host = "curl http://10.0.0.1:10000/v1?a=b -H 'Host: api.example.com'";
        assert_eq!(read(by_host), request("GET", "http://api.example.com/v1?a=b", &[]));
        assert_eq!(
            read("api.example.com/v2/x"),
            request("GET", "api.example.com/v2/x", &[])
        );
        assert_eq!(
            read(&format!("DELETE {url} -H 'x-env-tag: canary'")),
            request("DELETE", url, &canary)
        );
        let log = r#"{"method": "PUT", "authority": "a.b", "path": "/x?y", "response_code": 503, "user_agent": "k"}"#;
        assert_eq!(read(log), request("PUT", "a.b/x?y", &[("user-agent", "k")]));
    }

    #[test]
    fn another_text_is_told_what_is_expected() {
        for text in ["", "a b", "curl", "curl -X", "{\"path\": \"/\"}", "{", "curl 'a"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_quoted_word_is_one_word() {
        for word in ["a b", "it's", "", "x-a: \"1\"", "plain"] {
            assert_eq!(words(&quoted(word)), Ok(vec![word.to_owned()]), "{word}");
        }
    }
}
