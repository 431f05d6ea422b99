//! From terms as they were sent to nodes that can be evaluated.
//!
//! Here everything is checked that needs no data: that terms exist, how many arguments they have, which options, which
//! variables are in scope, and that no write hides in the function of a stream operation.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::error::{Frame, ReqlError, Result};
use super::parse::Term;
use super::terms::{self, Op};

/// A term that is ready to be evaluated.
#[derive(Debug)]
pub enum Node {
    /// A literal.
    Constant {
        /// The value.
        value: Datum,
        /// An upper bound for the length of the arrays in it.
        longest_array: usize,
    },
    /// An object with computed fields.
    Object(Vec<(Arc<str>, Node)>),
    /// A parameter of a function.
    Variable {
        /// The id that the driver gave.
        id: i64,
        /// How many functions further out the parameter belongs to.
        up: usize,
        /// Its position among the function's parameters.
        position: usize,
    },
    /// A function.
    Function(Arc<FunctionTerm>),
    /// An operation.
    Call(Arc<CallNode>),
}

/// An operation with its arguments.
#[derive(Debug)]
pub struct CallNode {
    /// What is done.
    pub op: &'static Op,
    /// Positional arguments.
    pub args: Vec<Node>,
    /// Optional arguments.
    pub options: Vec<(Arc<str>, Node)>,
    /// Whether an argument is `r.args`, so that their number is known only when they are evaluated.
    pub splices: bool,
    /// The number of this plugin call among those of the function around it whose arguments can be computed for many
    /// rows before any row's body is evaluated.
    pub site: Option<usize>,
}

/// A function as it was sent.
#[derive(Debug)]
pub struct FunctionTerm {
    /// The parameters' ids.
    pub params: Vec<i64>,
    /// The body.
    pub body: Node,
    /// The plugin calls of the body that can be made for many rows at once; inner ones come first.
    pub sites: Vec<Arc<CallNode>>,
}

/// Compiles a query's root term.
///
/// # Errors
/// When the query is malformed, with the path to the culprit.
pub fn query(term: Term) -> Result<Node> {
    Compiler::default().compile(term)
}

#[derive(Default)]
struct Compiler {
    functions: Vec<Scope>,
    /// Whether the position is inside the function of a stream operation, where nothing may be written.
    in_stream_function: bool,
    /// How many lazily evaluated arguments are between the position and the innermost function.
    lazy: usize,
    /// Whether ASC and DESC may stand here.
    ordering: bool,
}

struct Scope {
    params: Vec<i64>,
    sites: Vec<Arc<CallNode>>,
}

impl Compiler {
    fn compile(&mut self, term: Term) -> Result<Node> {
        match term {
            Term::Constant { value, longest_array, .. } => Ok(Node::Constant { value, longest_array }),
            Term::Object(fields) => Ok(Node::Object(self.options(fields)?)),
            Term::Call { number: terms::FUNC, args, options } => self.function(args, &options),
            Term::Call { number: terms::VAR, args, .. } => self.variable(&args),
            Term::Call { number: terms::IMPLICIT_VAR, .. } => self.implicit_variable(),
            Term::Call { number, args, options } => self.call(number, args, options),
        }
    }

    fn options(&mut self, fields: Vec<(Arc<str>, Term)>) -> Result<Vec<(Arc<str>, Node)>> {
        fields
            .into_iter()
            .map(|(name, term)| match self.compile(term) {
                Ok(node) => Ok((name, node)),
                Err(error) => Err(error.within(Frame::Option(name))),
            })
            .collect()
    }

    fn call(&mut self, number: u32, args: Vec<Term>, options: Vec<(Arc<str>, Term)>) -> Result<Node> {
        let op = terms::find(number).ok_or_else(|| ReqlError::compile(format!("Unrecognized TermType: {number}.")))?;
        if op.is(Op::WRITES) && self.in_stream_function {
            return Err(ReqlError::compile(
                "Cannot nest writes or meta ops in stream operations.  Use FOR_EACH instead.",
            ));
        }
        let orders = number == terms::ASC || number == terms::DESC;
        if orders && !self.ordering {
            return Err(ReqlError::compile(format!(
                "{} may only be used as an argument to ORDER_BY or UNION.",
                if number == terms::ASC { "ASC" } else { "DESC" }
            )));
        }
        let splices = args.iter().any(|arg| matches!(arg, Term::Call { number: terms::ARGS, .. }));
        if !splices {
            op.check_arity(args.len())?;
        }
        for (name, _) in &options {
            if !op.options.contains(&&**name) && !op.is(Op::ANY_OPTIONS) {
                return Err(match terms::obsolete_option(name) {
                    Some(error) => error,
                    None => ReqlError::compile(format!("Unrecognized optional argument `{name}`.")),
                });
            }
        }
        let sorts = op.is(Op::SORTS) || (number == 2 && self.ordering);
        let args = args
            .into_iter()
            .enumerate()
            .map(|(position, arg)| self.argument(op, position, sorts, arg).map_err(|error| error.at(position)))
            .collect::<Result<Vec<_>>>()?;
        let ordering = std::mem::replace(&mut self.ordering, sorts);
        self.lazy += 1;
        let options = self.options(if number == terms::GET_NEAREST { with_filter_of_row(options) } else { options });
        self.lazy -= 1;
        self.ordering = ordering;
        Ok(Node::Call(self.with_site(CallNode { op, args, options: options?, splices, site: None })))
    }

    /// Compiles an argument under the rules that the operation makes for it.
    fn argument(&mut self, op: &Op, position: usize, sorts: bool, arg: Term) -> Result<Node> {
        let lazy = usize::from(op.is(Op::LAZY) && position > 0);
        let ordering = std::mem::replace(&mut self.ordering, sorts);
        let in_stream_function = self.in_stream_function;
        self.in_stream_function |= op.is(Op::STREAM_FUNCTION) && position > 0;
        self.lazy += lazy;
        let node = self.compile(arg);
        self.lazy -= lazy;
        self.in_stream_function = in_stream_function;
        self.ordering = ordering;
        node
    }

    /// Numbers a plugin call whose arguments are evaluated for every row in any case.
    fn with_site(&mut self, mut call: CallNode) -> Arc<CallNode> {
        if self.lazy > 0 || !is_plugin_call(&call) {
            return Arc::new(call);
        }
        let Some(scope) = self.functions.last_mut() else { return Arc::new(call) };
        call.site = Some(scope.sites.len());
        let call = Arc::new(call);
        scope.sites.push(call.clone());
        call
    }

    fn function(&mut self, args: Vec<Term>, options: &[(Arc<str>, Term)]) -> Result<Node> {
        if let Some((name, _)) = options.first() {
            return Err(ReqlError::compile(format!("Unrecognized optional argument `{name}`.")));
        }
        let count = args.len();
        let Ok([params, body]) = <[Term; 2]>::try_from(args) else {
            return Err(ReqlError::compile(format!("Expected 2 arguments but found {count}.")));
        };
        let params = parameters(&params).ok_or_else(|| {
            ReqlError::compile("The first argument of FUNC must be an array of different numbers.").at(0)
        })?;
        self.functions.push(Scope { params, sites: Vec::new() });
        let lazy = std::mem::take(&mut self.lazy);
        let ordering = std::mem::take(&mut self.ordering);
        let body = self.compile(body);
        self.ordering = ordering;
        self.lazy = lazy;
        let scope = self.functions.pop().ok_or_else(|| ReqlError::internal("A function's scope was lost."))?;
        let body = body.map_err(|error| error.at(1))?;
        Ok(Node::Function(Arc::new(FunctionTerm { params: scope.params, body, sites: scope.sites })))
    }

    fn variable(&self, args: &[Term]) -> Result<Node> {
        let [Term::Constant { value: Datum::Number(id), .. }] = args else {
            return Err(ReqlError::compile("VAR takes one number."));
        };
        let id = *id as i64;
        self.find(id).ok_or_else(|| ReqlError::compile("Variable name not found."))
    }

    fn find(&self, id: i64) -> Option<Node> {
        self.functions.iter().rev().enumerate().find_map(|(up, scope)| {
            let position = scope.params.iter().position(|param| *param == id)?;
            Some(Node::Variable { id, up, position })
        })
    }

    fn implicit_variable(&self) -> Result<Node> {
        let mut candidates = self.functions.iter().rev().enumerate().filter(|(_, scope)| scope.params.len() == 1);
        let Some((up, scope)) = candidates.next() else {
            return Err(ReqlError::compile("r.row is not defined in this context."));
        };
        if candidates.next().is_some() {
            return Err(ReqlError::compile("Cannot use r.row in nested queries.  Use functions instead."));
        }
        Ok(Node::Variable { id: scope.params[0], up, position: 0 })
    }
}

/// Makes `filter: r.row["a"] > 1` a function of the row. Drivers do that for arguments, but not for options.
fn with_filter_of_row(options: Vec<(Arc<str>, Term)>) -> Vec<(Arc<str>, Term)> {
    let wrap = |(name, term): (Arc<str>, Term)| match &*name == "filter" && uses_row(&term) {
        true => {
            // No driver numbers its variables so.
            let params = Term::Constant { value: Datum::array([Datum::from(-1)]), longest_array: 1, typed: false };
            (name, Term::Call { number: terms::FUNC, args: vec![params, term], options: Vec::new() })
        }
        false => (name, term),
    };
    options.into_iter().map(wrap).collect()
}

/// Whether `r.row` stands in the term, outside of functions.
fn uses_row(term: &Term) -> bool {
    match term {
        Term::Constant { .. } | Term::Call { number: terms::FUNC, .. } => false,
        Term::Call { number: terms::IMPLICIT_VAR, .. } => true,
        Term::Object(fields) => fields.iter().any(|(_, field)| uses_row(field)),
        Term::Call { args, options, .. } => args.iter().any(uses_row) || options.iter().any(|(_, term)| uses_row(term)),
    }
}

fn parameters(term: &Term) -> Option<Vec<i64>> {
    let Term::Constant { value: Datum::Array(ids), .. } = term else { return None };
    let ids = ids.iter().map(|id| id.as_number().map(|id| id as i64)).collect::<Option<Vec<_>>>()?;
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1]).then_some(ids)
}

/// Whether the node calls a plugin's function whose name is in the query's text.
fn is_plugin_call(call: &CallNode) -> bool {
    !call.splices && call.options.is_empty() && plugin_call(call).is_some()
}

/// The name of the plugin's function that the node calls, and the arguments.
#[must_use]
pub fn plugin_call(call: &CallNode) -> Option<(&str, &[Node])> {
    let (first, args) = call.args.split_first()?;
    match (call.op.number, first) {
        (terms::PLUGIN, Node::Constant { value: Datum::String(name), .. }) => {
            Some((name.strip_prefix("plugin.").unwrap_or(name), args))
        }
        (terms::FUNCALL, Node::Call(function)) if function.op.number == terms::JAVASCRIPT => {
            match function.args.first()? {
                Node::Constant { value: Datum::String(text), .. } => Some((text.trim().strip_prefix("plugin.")?, args)),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Node {
    /// Whether `found` holds for this term, or any within it.
    pub fn any(&self, found: &mut dyn FnMut(&CallNode) -> bool) -> bool {
        match self {
            Self::Constant { .. } | Self::Variable { .. } => false,
            Self::Object(fields) => fields.iter().any(|(_, field)| field.any(found)),
            Self::Function(function) => function.body.any(found),
            Self::Call(call) => {
                found(call)
                    || call.args.iter().any(|arg| arg.any(found))
                    || call.options.iter().any(|(_, option)| option.any(found))
            }
        }
    }
}
