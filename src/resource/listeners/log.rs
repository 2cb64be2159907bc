//! Access logs and traces of a listener.
//!
//! Paths are logged without their query unless the document asks for it: keys and tokens travel there. Formats of JSON
//! are encoded with sorted fields, so equal documents give equal bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLog as WireAccessLog, AccessLogFilter, AndFilter, ComparisonFilter, RuntimeFilter, StatusCodeFilter,
    access_log, access_log_filter, comparison_filter,
};
use envoy_types::pb::envoy::config::core::v3::{
    ApiVersion, DataSource, GrpcService, HttpService, HttpUri, RuntimeUInt32, SubstitutionFormatString, data_source,
    grpc_service, http_uri, substitution_format_string,
};
use envoy_types::pb::envoy::config::trace::v3::{OpenTelemetryConfig, tracing as provider};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{StderrAccessLog, StdoutAccessLog};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as WireTracing;
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent};
use envoy_types::pb::google::protobuf;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, KeyValue, KeyValueList, any_value};
use prost::{Message, Name};
use serde_json::Value as Json;

use crate::document::Rejection;
use crate::document::listener::{AccessLog, LogFormat, Only, Sink, StatusIs, Tag, Tracing};
use crate::document::route::Upstream;
use crate::proto::message::{any, append, boolean, duration};
use crate::proto::structs::Struct;
use crate::resource::check;
use crate::resource::compile::context::Context;

/// The fields of a line of JSON, but for the path.
const JSON_FIELDS: [(&str, &str); 17] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration_ms", "%DURATION%"),
    ("listener", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("method", "%REQ(:METHOD)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
];
/// Envoy's own line of text; `{path}` is the path.
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% {path} %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"";
/// The path as the client sent it, without and with its query.
const PATH: &str = "%PATH(NQ:ORIG_OR_PATH)%";
const PATH_AND_QUERY: &str = "%PATH(WQ:ORIG_OR_PATH)%";
/// Runtime keys that Envoy demands; nothing sets them.
const STATUS_KEY: &str = "chancery.access_log.status";
const PERCENT_KEY: &str = "chancery.access_log.percent";
/// The longest that a call to a collector takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Rules that need Envoy's list of commands and the folder of access logs.
///
/// # Errors
/// The first format with a command that Envoy does not have, or the first file outside the folder.
pub(super) fn check(logs: &[AccessLog], context: &Context) -> Result<(), Rejection> {
    for (index, log) in logs.iter().enumerate() {
        let at = format!("http.access_log[{index}]");
        if let Sink::File(path) = &log.to {
            let folder = context.access_log_dir.trim_end_matches('/');
            if !path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) {
                let reason = format!("found the file {path:?}, expected one below {folder}/ (--access-log-dir)");
                return Err(Rejection::new(format!("{at}.to"), reason));
            }
        }
        if let LogFormat::Fields(fields) = &log.format {
            check::log_fields(fields, &format!("{at}.format"))?;
        }
        check::log_fields(&log.fields, &format!("{at}.fields"))?;
    }
    Ok(())
}

/// An access log of the listener `name`.
pub(super) fn access_log(name: &str, log: &AccessLog) -> WireAccessLog {
    let (logger, config) = match &log.to {
        Sink::Stdout => ("stdout", stream(StdoutAccessLog::type_url(), log)),
        Sink::Stderr => ("stderr", stream(StderrAccessLog::type_url(), log)),
        Sink::File(path) => {
            let mut value = FileAccessLog {
                path: path.clone(),
                ..FileAccessLog::default()
            }
            .encode_to_vec();
            append(&mut value, 5, &log_format(log));
            let type_url = FileAccessLog::type_url();
            ("file", protobuf::Any { type_url, value })
        }
        Sink::Otlp(target) => ("open_telemetry", any(&open_telemetry(name, target, log))),
        Sink::Grpc(target) => ("http_grpc", any(&grpc_log(name, target))),
    };
    WireAccessLog {
        name: format!("envoy.access_loggers.{logger}"),
        filter: filter(&log.only),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
    }
}

fn stream(type_url: String, log: &AccessLog) -> protobuf::Any {
    let mut value = Vec::new();
    append(&mut value, 1, &log_format(log));
    protobuf::Any { type_url, value }
}

/// The encoded `SubstitutionFormatString` of a log.
fn log_format(log: &AccessLog) -> Vec<u8> {
    match fields(log) {
        Some(fields) => json_format(&SubstitutionFormatString::default(), &fields),
        None => {
            let source = DataSource {
                specifier: Some(data_source::Specifier::InlineString(format!("{}\n", line(log)))),
                ..DataSource::default()
            };
            let format = SubstitutionFormatString {
                format: Some(substitution_format_string::Format::TextFormatSource(source)),
                ..SubstitutionFormatString::default()
            };
            format.encode_to_vec()
        }
    }
}

/// `head` with a JSON format of these fields, encoded.
pub(super) fn json_format(head: &SubstitutionFormatString, fields: &BTreeMap<String, String>) -> Vec<u8> {
    let fields: Vec<(&String, Json)> = fields
        .iter()
        .map(|(name, command)| (name, Json::String(command.clone())))
        .collect();
    let json_format: Struct = fields.iter().map(|(name, value)| (*name, value)).collect();
    let mut format = head.encode_to_vec();
    append(&mut format, 2, &json_format.encode_to_vec());
    format
}

/// The fields of a line of JSON; `None`: the line is text.
fn fields(log: &AccessLog) -> Option<BTreeMap<String, String>> {
    let mut fields = match &log.format {
        LogFormat::Text => return None,
        LogFormat::Fields(fields) => fields.clone(),
        LogFormat::Json => JSON_FIELDS
            .iter()
            .map(|(name, command)| ((*name).to_owned(), (*command).to_owned()))
            .chain([("path".to_owned(), path(log).to_owned())])
            .collect(),
    };
    fields.extend(log.fields.clone());
    Some(fields)
}

fn line(log: &AccessLog) -> String {
    TEXT.replace("{path}", path(log))
}

fn path(log: &AccessLog) -> &'static str {
    if log.query { PATH_AND_QUERY } else { PATH }
}

fn open_telemetry(name: &str, target: &Upstream, log: &AccessLog) -> OpenTelemetryAccessLogConfig {
    let text = |text: String| AnyValue {
        value: Some(any_value::Value::StringValue(text)),
    };
    let fields = fields(log);
    let body = fields.is_none().then(|| text(line(log)));
    let attributes = fields.map(|fields| KeyValueList {
        values: fields
            .into_iter()
            .map(|(key, value)| KeyValue {
                key,
                value: Some(text(value)),
                ..KeyValue::default()
            })
            .collect(),
    });
    let (grpc_service, http_service) = service(target, "/v1/logs");
    OpenTelemetryAccessLogConfig {
        log_name: name.to_owned(),
        grpc_service,
        http_service,
        body,
        attributes,
        ..OpenTelemetryAccessLogConfig::default()
    }
}

fn grpc_log(name: &str, target: &Upstream) -> HttpGrpcAccessLogConfig {
    HttpGrpcAccessLogConfig {
        common_config: Some(CommonGrpcAccessLogConfig {
            log_name: name.to_owned(),
            grpc_service: Some(grpc(target)),
            transport_api_version: ApiVersion::V3 as i32,
            ..CommonGrpcAccessLogConfig::default()
        }),
        ..HttpGrpcAccessLogConfig::default()
    }
}

fn grpc(target: &Upstream) -> GrpcService {
    let envoy_grpc = grpc_service::EnvoyGrpc {
        cluster_name: target.cluster_name().to_string(),
        ..grpc_service::EnvoyGrpc::default()
    };
    GrpcService {
        timeout: Some(duration(CALL_TIMEOUT)),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(envoy_grpc)),
        ..GrpcService::default()
    }
}

/// A collector of OpenTelemetry: by HTTP if the target is an `http` URL, else by gRPC.
fn service(target: &Upstream, path: &str) -> (Option<GrpcService>, Option<HttpService>) {
    match target {
        Upstream::Url(url) if !url.http2 => {
            let cluster = url.cluster_name();
            let uri = HttpUri {
                uri: format!("{cluster}{path}"),
                timeout: Some(duration(CALL_TIMEOUT)),
                http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster)),
            };
            let service = HttpService {
                http_uri: Some(uri),
                ..HttpService::default()
            };
            (None, Some(service))
        }
        Upstream::Url(_) | Upstream::Cluster(_) => (Some(grpc(target)), None),
    }
}

fn filter(only: &Only) -> Option<AccessLogFilter> {
    let mut filters: Vec<AccessLogFilter> = Vec::new();
    filters.extend(only.status.map(status_filter));
    filters.extend(only.percent.map(percent_filter));
    match filters.len() {
        0 | 1 => filters.pop(),
        _ => Some(AccessLogFilter {
            filter_specifier: Some(access_log_filter::FilterSpecifier::AndFilter(AndFilter { filters })),
        }),
    }
}

fn status_filter(status: StatusIs) -> AccessLogFilter {
    let (op, status) = match status {
        StatusIs::AtLeast(status) => (comparison_filter::Op::Ge, status),
        StatusIs::AtMost(status) => (comparison_filter::Op::Le, status),
        StatusIs::Exactly(status) => (comparison_filter::Op::Eq, status),
    };
    let comparison = ComparisonFilter {
        op: op as i32,
        value: Some(RuntimeUInt32 {
            default_value: u32::from(status),
            runtime_key: STATUS_KEY.to_owned(),
        }),
    };
    AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(comparison),
        })),
    }
}

fn percent_filter(percent: f64) -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(access_log_filter::FilterSpecifier::RuntimeFilter(RuntimeFilter {
            runtime_key: PERCENT_KEY.to_owned(),
            percent_sampled: Some(millionths(percent)),
            use_independent_randomness: true,
        })),
    }
}

/// A share in millionths, four decimals of a percent.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 1,000,000: a percent is 0 to 100"
)]
fn millionths(percent: f64) -> FractionalPercent {
    FractionalPercent {
        numerator: (percent * 10_000.0).round() as u32,
        denominator: fractional_percent::DenominatorType::Million as i32,
    }
}

/// The traces of the listener `name`.
pub(super) fn tracing(name: &str, tracing: &Tracing) -> WireTracing {
    let percent = |value| Some(Percent { value });
    let (grpc_service, http_service) = service(&tracing.to, "/v1/traces");
    let config = OpenTelemetryConfig {
        grpc_service,
        http_service,
        service_name: tracing.service.clone().unwrap_or_else(|| name.to_owned()),
        ..OpenTelemetryConfig::default()
    };
    WireTracing {
        // A client cannot ask for a trace by x-client-trace-id.
        client_sampling: percent(0.0),
        random_sampling: percent(tracing.sample_percent),
        overall_sampling: percent(100.0),
        operation: "%ROUTE_NAME%".to_owned(),
        spawn_upstream_span: Some(boolean(true)),
        custom_tags: tracing.tags.iter().map(custom_tag).collect(),
        provider: Some(provider::Http {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(provider::http::ConfigType::TypedConfig(any(&config))),
        }),
        ..WireTracing::default()
    }
}

fn custom_tag((name, tag): (&String, &Tag)) -> CustomTag {
    let kind = match tag {
        Tag::Text(value) => custom_tag::Type::Literal(custom_tag::Literal { value: value.clone() }),
        Tag::Header(name) => custom_tag::Type::RequestHeader(custom_tag::Header {
            name: name.clone(),
            ..custom_tag::Header::default()
        }),
    };
    CustomTag {
        tag: name.clone(),
        r#type: Some(kind),
    }
}
