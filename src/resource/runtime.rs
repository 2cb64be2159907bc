//! Runtime layers: a runtime document becomes the Runtime resource of its name.

use envoy_types::pb::envoy::service::runtime::v3::Runtime as Wire;
use prost::Message;

use super::Resource;
use crate::document::key::DocumentKey;
use crate::document::runtime::Runtime;
use crate::proto::message::append;
use crate::proto::structs::Struct;

/// The number of the field `layer`.
const LAYER: u32 = 2;

/// The Runtime of a document. The layer is encoded with sorted keys and put in as bytes.
#[must_use]
pub fn from_document(key: &DocumentKey, runtime: &Runtime) -> Resource {
    let head = Wire {
        name: key.name.to_string(),
        layer: None,
    };
    let layer: Struct = runtime.values.iter().collect();
    let mut body = head.encode_to_vec();
    append(&mut body, LAYER, &layer.encode_to_vec());
    Resource::new(std::sync::Arc::clone(&key.name), body, vec![key.clone()])
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::value::Kind;
    use serde_json::json;

    use super::*;
    use crate::document::key;

    #[test]
    fn a_layer_has_the_values_of_its_document() {
        let fraction = json!({ "numerator": 5, "denominator": "MILLION" });
        let values = [("a.b".to_owned(), json!(1)), ("share".to_owned(), fraction)];
        let runtime = Runtime {
            values: values.into(),
            order: 0,
            groups: None,
        };
        let key = DocumentKey::new(key::Kind::Runtime, "features");
        let resource = from_document(&key, &runtime);
        let bytes: Vec<u8> = resource.body.pieces().flatten().copied().collect();
        let wire = Wire::decode(&bytes[..]).unwrap();
        let layer = wire.layer.unwrap().fields;
        assert_eq!(wire.name, "features");
        assert_eq!(layer["a.b"].kind, Some(Kind::NumberValue(1.0)));
        let Some(Kind::StructValue(share)) = &layer["share"].kind else {
            panic!("no fraction");
        };
        assert_eq!(
            share.fields["denominator"].kind,
            Some(Kind::StringValue("MILLION".to_owned()))
        );
    }
}
