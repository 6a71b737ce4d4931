//! Lists the mutants of a source file.

use std::ops::Range;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One change of one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutant {
    pub file: String,
    pub line: usize,
    pub function: String,
    /// The mutation operator: `operator`, `condition`, `guard`, `statement` or `body`.
    pub operator: &'static str,
    /// The bytes of the file that the switch replaces.
    pub place: Range<usize>,
    /// The mutated code.
    pub instead: Instead,
    /// The change in words.
    pub told: String,
}

/// The mutated code of one mutant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Instead {
    /// An expression.
    Text(String),
    /// The statement is deleted.
    Nothing,
    /// The function returns this value at once. The place is the empty range before the first statement.
    Return(String),
}

/// All mutants of a file, in the order of their places.
pub fn mutants(file: &str, text: &str) -> syn::Result<Vec<Mutant>> {
    let tree = syn::parse_file(text)?;
    let mut finder = Finder { file, text, functions: Vec::new(), found: Vec::new() };
    finder.visit_file(&tree);
    finder.found.sort_by_key(|mutant| (mutant.place.start, mutant.place.end));
    Ok(finder.found)
}

struct Finder<'t> {
    file: &'t str,
    text: &'t str,
    functions: Vec<String>,
    found: Vec<Mutant>,
}

impl Finder<'_> {
    fn source(&self, span: Span) -> &str {
        self.text.get(span.byte_range()).unwrap_or_default()
    }

    fn add(&mut self, span: Span, operator: &'static str, instead: Instead, told: String) {
        let (place, line) = (span.byte_range(), span.start().line);
        self.add_at(place, line, operator, instead, told);
    }

    fn add_at(&mut self, place: Range<usize>, line: usize, operator: &'static str, instead: Instead, told: String) {
        let function = self.functions.last().cloned().unwrap_or_default();
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        self.found.push(Mutant { file: self.file.to_owned(), line, function, operator, place, instead, told });
    }

    fn binary(&mut self, node: &syn::ExprBinary) {
        let operator = self.source(node.op.span()).to_owned();
        let (left, right) = (self.source(node.left.span()).to_owned(), self.source(node.right.span()).to_owned());
        for other in others(&operator) {
            let instead = Instead::Text(format!("({left}) {other} ({right})"));
            let instead = if operator.ends_with('=') && !is_comparison(&operator) {
                Instead::Text(format!("{left} {other} {right}"))
            } else {
                instead
            };
            let told = format!("{operator} -> {other} in {}", self.source(node.span()));
            self.add(node.span(), "operator", instead, told);
        }
    }

    fn condition(&mut self, condition: &syn::Expr, operator: &'static str) {
        if has_let(condition) {
            return;
        }
        for value in ["true", "false"] {
            let told = format!("{} -> {value}", self.source(condition.span()));
            self.add(condition.span(), operator, Instead::Text(value.to_owned()), told);
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        if signature.constness.is_some() {
            return;
        }
        self.functions.push(signature.ident.to_string());
        let at = block.brace_token.span.open().byte_range().end;
        let line = signature.ident.span().start().line;
        if !block.stmts.is_empty() {
            for value in values(&signature.output) {
                let told = format!("{} -> {value}", signature.ident);
                self.add_at(at..at, line, "body", Instead::Return(value), told);
            }
        }
        visit::visit_block(self, block);
        self.functions.pop();
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        if !is_left_out(&node.attrs) {
            self.function(&node.sig, &node.block);
        }
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        if !is_left_out(&node.attrs) {
            self.function(&node.sig, &node.block);
        }
    }

    fn visit_trait_item_fn(&mut self, node: &'ast syn::TraitItemFn) {
        if let Some(block) = node.default.as_ref().filter(|_| !is_left_out(&node.attrs)) {
            self.function(&node.sig, block);
        }
    }

    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if !is_left_out(&node.attrs) {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        let shows = node
            .trait_
            .as_ref()
            .and_then(|(_, path, _)| path.segments.last())
            .is_some_and(|last| last.ident == "Debug" || last.ident == "Display");
        if !shows && !is_left_out(&node.attrs) {
            visit::visit_item_impl(self, node);
        }
    }

    // The compiler evaluates constants, so a switch in one could not be read at run time.
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_expr_repeat(&mut self, node: &'ast syn::ExprRepeat) {
        self.visit_expr(&node.expr);
    }
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}
    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        if !has_let(&node.left) && !has_let(&node.right) {
            self.binary(node);
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_unary(&mut self, node: &'ast syn::ExprUnary) {
        if matches!(node.op, syn::UnOp::Not(_) | syn::UnOp::Neg(_)) {
            let without = self.source(node.expr.span()).to_owned();
            let told = format!("{} -> {without}", self.source(node.span()));
            self.add(node.span(), "operator", Instead::Text(without), told);
        }
        visit::visit_expr_unary(self, node);
    }

    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        self.condition(&node.cond, "condition");
        visit::visit_expr_if(self, node);
    }

    fn visit_expr_while(&mut self, node: &'ast syn::ExprWhile) {
        self.condition(&node.cond, "condition");
        visit::visit_expr_while(self, node);
    }

    fn visit_arm(&mut self, node: &'ast syn::Arm) {
        if is_left_out(&node.attrs) {
            return;
        }
        if let Some((_, guard)) = &node.guard {
            self.condition(guard, "guard");
        }
        visit::visit_arm(self, node);
    }

    fn visit_stmt(&mut self, node: &'ast syn::Stmt) {
        if let syn::Stmt::Expr(expr, Some(_)) = node
            && is_an_effect(expr)
        {
            let told = format!("{} is left out", self.source(expr.span()));
            self.add(node.span(), "statement", Instead::Nothing, told);
        }
        if let syn::Stmt::Local(local) = node
            && is_left_out(&local.attrs)
        {
            return;
        }
        visit::visit_stmt(self, node);
    }
}

/// Whether a statement is a call or an assignment.
fn is_an_effect(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Call(_) | syn::Expr::MethodCall(_) | syn::Expr::Assign(_) => true,
        syn::Expr::Binary(binary) => !is_comparison_op(&binary.op),
        syn::Expr::Try(inner) => is_an_effect(&inner.expr),
        _ => false,
    }
}

fn is_comparison_op(op: &syn::BinOp) -> bool {
    use syn::BinOp::{And, Eq, Ge, Gt, Le, Lt, Ne, Or};
    matches!(op, And(_) | Eq(_) | Ge(_) | Gt(_) | Le(_) | Lt(_) | Ne(_) | Or(_))
}

fn is_comparison(operator: &str) -> bool {
    matches!(operator, "==" | "!=" | "<=" | ">=")
}

fn others(operator: &str) -> &'static [&'static str] {
    match operator {
        "<" => &["<=", ">="],
        "<=" => &["<", ">"],
        ">" => &[">=", "<="],
        ">=" => &[">", "<"],
        "==" => &["!="],
        "!=" => &["=="],
        "&&" => &["||"],
        "||" => &["&&"],
        "+" => &["-"],
        "-" => &["+"],
        "*" => &["+"],
        "/" | "%" => &["*"],
        "&" => &["|"],
        "|" | "^" => &["&"],
        "<<" => &[">>"],
        ">>" => &["<<"],
        "+=" => &["-="],
        "-=" => &["+="],
        "*=" => &["+="],
        "|=" => &["&="],
        "&=" => &["|="],
        _ => &[],
    }
}

/// The values that a mutated body returns, by the return type.
fn values(output: &syn::ReturnType) -> Vec<String> {
    match output {
        syn::ReturnType::Default => vec!["()".to_owned()],
        syn::ReturnType::Type(_, of) => values_of(of),
    }
}

fn values_of(of: &syn::Type) -> Vec<String> {
    let all = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    match of {
        syn::Type::Tuple(tuple) if tuple.elems.is_empty() => all(&["()"]),
        syn::Type::Path(path) => {
            let Some(last) = path.path.segments.last() else { return Vec::new() };
            let inner = first_argument(last);
            match last.ident.to_string().as_str() {
                "bool" => all(&["true", "false"]),
                "u8" | "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => all(&["0", "1"]),
                "Duration" | "Vec" | "String" | "Wakes" => all(&["Default::default()"]),
                "Option" => all(&["None"]),
                "Result" => {
                    let inner = inner.map_or_else(|| all(&["()"]), values_of);
                    inner.into_iter().map(|value| format!("Ok({value})")).collect()
                }
                _ => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

fn first_argument(segment: &syn::PathSegment) -> Option<&syn::Type> {
    let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else { return None };
    arguments.args.iter().find_map(|argument| match argument {
        syn::GenericArgument::Type(of) => Some(of),
        _ => None,
    })
}

fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        syn::Expr::Paren(inner) => has_let(&inner.expr),
        _ => false,
    }
}

/// Whether an attribute marks test code, or code of another platform or model checker.
fn is_left_out(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        if path.is_ident("test") {
            return true;
        }
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let what = list.tokens.to_string().replace(' ', "");
        path.is_ident("cfg")
            && (what.starts_with("test")
                || what.starts_with("all(test")
                || what.starts_with("loom")
                || what.starts_with("shuttle")
                || what.contains("not(target_os=\"linux\")")
                || what.contains("not(unix)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        mutants("a.rs", text).unwrap().into_iter().map(|mutant| mutant.told).collect()
    }

    #[test]
    fn operators_conditions_statements_and_bodies_are_found() {
        let text = "fn f(a: u32) -> bool { if a < 3 { g(a)?; } !h(a) && a + 1 == 2 }";
        let told = told(text);
        let expected = ["f -> true", "a < 3 -> true", "< -> <= in a < 3", "g(a)? is left out", "!h(a) -> h(a)"];
        for expected in expected.into_iter().chain(["&& -> || in !h(a) && a + 1 == 2", "== -> != in a + 1 == 2"]) {
            assert!(told.iter().any(|told| told == expected), "{expected}: {told:?}");
        }
    }

    #[test]
    fn constants_tests_and_let_chains_are_left_alone() {
        let text = "const A: u32 = 1 + 2; static B: u32 = 2 * 3; const fn c() -> u32 { 1 + 1 }
            #[cfg(test)] mod t { fn d() -> bool { 1 < 2 } } #[test] fn e() { f(); }
            fn g(x: Option<u32>) { let _ = [0; 1 + 2]; if let Some(1) = x && h() {} }
            impl std::fmt::Debug for X { fn fmt(&self) -> bool { 1 < 2 } }";
        assert_eq!(told(text), ["g -> ()"]);
    }
}
