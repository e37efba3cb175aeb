//! CPU = CUDA for every entry of the registry: on the first card, or not at all, which is told.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use losses::Method;
use testkit::tolerance::{ORACLE_F32, ORACLE_F64, assert_close};

use crate::support::{CHANNELS, CLASSES, Fixture, LABELS, cases, value, values};

/// The first card, or why there is none.
fn card() -> Result<Device, String> {
    if !cfg!(feature = "cuda") {
        return Err("this build has no CUDA (`--features cuda`)".into());
    }
    Device::new_cuda(0).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())
}

#[test]
fn every_method_is_the_same_on_a_card() {
    let card = match card() {
        Ok(card) => card,
        Err(why) => {
            // Past the harness, which shows the output of failing tests alone.
            writeln!(std::io::stderr(), "CPU = CUDA of the methods: not run, no card: {why}").unwrap();
            return;
        }
    };
    for config in cases() {
        for (dtype, bar) in [(DType::F64, ORACLE_F64), (DType::F32, ORACLE_F32)] {
            let mut fixture = Fixture::new(config.clone(), &LABELS, dtype);
            let out = fixture.loss();
            let want = out.total.backward().unwrap();
            let on_card = |tensor: &Tensor| Var::from_tensor(&tensor.detach().to_device(&card).unwrap()).unwrap();
            let vars: BTreeMap<String, Var> =
                fixture.parameters.vars().into_iter().map(|(name, var)| (name, on_card(&var))).collect();
            let tensors: HashMap<String, Tensor> =
                vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
            let builder = VarBuilder::from_tensors(tensors, dtype, &card);
            let method = Method::new(&config, CHANNELS, CLASSES, builder.clone()).unwrap();
            fixture.teacher = fixture.teacher.map(|tokens| tokens.to_device(&card).unwrap());
            let (anchor, positive) = (on_card(&fixture.anchor), on_card(&fixture.positive));
            let again = fixture.loss_at(&method, &anchor, &positive);
            let got = again.total.backward().unwrap();
            let what = |name: &str| format!("{config:?} {dtype:?}: {name}");
            assert_close(&what("loss"), &[value(&again.total)], &[value(&out.total)], 1, bar.value);
            let (ours, theirs) = (again.read(&[&again.total]).unwrap(), out.read(&[]).unwrap());
            assert_eq!(ours.also, [[ours.total]]);
            assert_eq!(ours.diagnostics.keys().collect::<Vec<_>>(), theirs.diagnostics.keys().collect::<Vec<_>>());
            assert_eq!(ours.terms.keys().collect::<Vec<_>>(), theirs.terms.keys().collect::<Vec<_>>());
            for (name, term) in &theirs.terms {
                assert_close(&what(name), &[ours.terms[name]], &[*term], 1, bar.value);
            }
            if config.views().teacher {
                let own = VarBuilder::from_tensors(fixture.parameters.tensors(), dtype, &Device::Cpu);
                let tokens =
                    |builder, map: &Tensor| values(&Method::teacher_tokens(&config, CHANNELS, builder, map).unwrap());
                let (ours, theirs) = (tokens(builder, &anchor), tokens(own, &fixture.anchor));
                assert_close(&what("teacher's tokens"), &ours, &theirs, theirs.len() / LABELS.len(), bar.value);
            }
            let both = |of: &dyn Fn(&Method, &Tensor) -> Option<Tensor>| {
                Some((values(&of(&method, &anchor)?), values(&of(&fixture.method, &fixture.anchor)?)))
            };
            let attention = both(&|method, map| method.part_attention(map).unwrap());
            let covariances = both(&|method, map| method.part_covariances(map).unwrap());
            for (name, (ours, theirs)) in [("attention", attention), ("covariances", covariances)]
                .into_iter()
                .filter_map(|(name, found)| Some((name, found?)))
            {
                assert_close(&what(name), &ours, &theirs, theirs.len() / LABELS.len(), bar.value);
            }
            let logits = both(&|method, map| Some(method.logits(map).unwrap())).unwrap();
            assert_close(&what("logits"), &logits.0, &logits.1, CLASSES, bar.value);
            let mut pairs = vec![("anchor map".to_owned(), anchor, fixture.anchor.clone())];
            if config.views().positive {
                pairs.push(("positive map".to_owned(), positive, fixture.positive.clone()));
            }
            let own = fixture.parameters.vars();
            pairs.extend(vars.into_iter().map(|(name, var)| (name.clone(), var, own[&name].clone())));
            for (name, ours, theirs) in pairs {
                let (ours, theirs) = (values(got.get(&ours).unwrap()), values(want.get(&theirs).unwrap()));
                assert_close(&what(&name), &ours, &theirs, theirs.len(), bar.gradient);
            }
        }
    }
}
