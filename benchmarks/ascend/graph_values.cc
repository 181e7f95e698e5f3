// The classes of CANN's graph library that MindSpore passes around, as far as it imports them: values in
// memory behind one pointer each. Their interface is given by the mangled names in MindSpore's wheel.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>
using std::string; using std::vector; using std::shared_ptr; using std::make_shared; using std::pair;
namespace ge {
enum DataType : int { DT_0 = 0 }; enum Format : int { FMT_ND = 2 }; enum Placement : int { PL_HOST = 0 };
constexpr uint32_t FAIL = 0xFFFFFFFFu;
class AscendString { public:
  AscendString(const char *); const char *GetString() const; size_t Hash() const;
  bool operator<(const AscendString &) const; bool operator==(const AscendString &) const;
  shared_ptr<string> s; };
AscendString::AscendString(const char *p) : s(make_shared<string>(p ? p : "")) {}
const char *AscendString::GetString() const { return s ? s->c_str() : ""; }
size_t AscendString::Hash() const { return std::hash<string>()(GetString()); }
bool AscendString::operator<(const AscendString &o) const { return strcmp(GetString(), o.GetString()) < 0; }
bool AscendString::operator==(const AscendString &o) const { return !strcmp(GetString(), o.GetString()); }

struct ShapeImpl { vector<long> d; };
class Shape { public: Shape(); explicit Shape(const vector<long> &); size_t GetDimNum() const; uint32_t SetDim(size_t, long);
  long GetDim(size_t) const; vector<long> GetDims() const; long GetShapeSize() const; shared_ptr<ShapeImpl> p; };
Shape::Shape() : p(make_shared<ShapeImpl>()) {}
Shape::Shape(const vector<long> &v) : p(make_shared<ShapeImpl>()) { p->d = v; }
size_t Shape::GetDimNum() const { return p ? p->d.size() : 0; }
uint32_t Shape::SetDim(size_t i, long v) { if (!p || i >= p->d.size()) return FAIL; p->d[i] = v; return 0; }
long Shape::GetDim(size_t i) const { return p && i < p->d.size() ? p->d[i] : 0; }
vector<long> Shape::GetDims() const { return p ? p->d : vector<long>(); }
long Shape::GetShapeSize() const { long n = 1; for (long v : GetDims()) n *= v; return n; }

struct DescImpl { Shape s, o; Format f = FMT_ND, of = FMT_ND; DataType t = DT_0; Placement pl = PL_HOST; long real = 0; vector<pair<long, long>> r; };
class TensorDesc { public: TensorDesc(); TensorDesc(const TensorDesc &); TensorDesc(TensorDesc &&); explicit TensorDesc(Shape, Format, DataType);
  TensorDesc &operator=(const TensorDesc &); TensorDesc &operator=(TensorDesc &&);
  void SetShape(const Shape &); void SetOriginShape(const Shape &); void SetFormat(Format); void SetOriginFormat(Format);
  void SetDataType(DataType); void SetPlacement(Placement); void SetRealDimCnt(long); uint32_t SetShapeRange(const vector<pair<long, long>> &);
  Shape GetShape() const; Shape GetOriginShape() const; Format GetFormat() const; Format GetOriginFormat() const; DataType GetDataType() const;
  Placement GetPlacement() const; long GetRealDimCnt() const; uint32_t GetShapeRange(vector<pair<long, long>> &) const;
  shared_ptr<DescImpl> p; };
TensorDesc::TensorDesc() : p(make_shared<DescImpl>()) {}
TensorDesc::TensorDesc(const TensorDesc &o) : p(make_shared<DescImpl>(*o.p)) {}
TensorDesc::TensorDesc(TensorDesc &&o) : p(o.p) { o.p = make_shared<DescImpl>(); }
TensorDesc::TensorDesc(Shape s, Format f, DataType t) : p(make_shared<DescImpl>()) { p->s = s; p->o = s; p->f = p->of = f; p->t = t; }
TensorDesc &TensorDesc::operator=(const TensorDesc &o) { p = make_shared<DescImpl>(*o.p); return *this; }
TensorDesc &TensorDesc::operator=(TensorDesc &&o) { p.swap(o.p); return *this; }
void TensorDesc::SetShape(const Shape &s) { p->s = s; }            void TensorDesc::SetOriginShape(const Shape &s) { p->o = s; }
void TensorDesc::SetFormat(Format f) { p->f = f; }                 void TensorDesc::SetOriginFormat(Format f) { p->of = f; }
void TensorDesc::SetDataType(DataType t) { p->t = t; }             void TensorDesc::SetPlacement(Placement v) { p->pl = v; }
void TensorDesc::SetRealDimCnt(long v) { p->real = v; }            uint32_t TensorDesc::SetShapeRange(const vector<pair<long, long>> &r) { p->r = r; return 0; }
Shape TensorDesc::GetShape() const { return Shape(p->s.GetDims()); }  Shape TensorDesc::GetOriginShape() const { return Shape(p->o.GetDims()); }
Format TensorDesc::GetFormat() const { return p->f; }              Format TensorDesc::GetOriginFormat() const { return p->of; }
DataType TensorDesc::GetDataType() const { return p->t; }          Placement TensorDesc::GetPlacement() const { return p->pl; }
long TensorDesc::GetRealDimCnt() const { return p->real; }         uint32_t TensorDesc::GetShapeRange(vector<pair<long, long>> &r) const { r = p->r; return 0; }

struct TensorImpl { TensorDesc d; vector<uint8_t> own; uint8_t *ext = nullptr; size_t n = 0; std::function<void(uint8_t *)> del; ~TensorImpl() { if (ext && del) del(ext); } };
class Tensor { public: Tensor(); explicit Tensor(const TensorDesc &); Tensor(const TensorDesc &, const uint8_t *, size_t);
  TensorDesc GetTensorDesc() const; uint32_t SetTensorDesc(const TensorDesc &); const uint8_t *GetData() const; uint8_t *GetData(); size_t GetSize() const;
  uint32_t SetData(const uint8_t *, size_t); uint32_t SetData(uint8_t *, size_t, const std::function<void(uint8_t *)> &);
  uint32_t SetData(const string &); uint32_t SetData(const vector<string> &);
  std::unique_ptr<uint8_t[], std::function<void(uint8_t *)>> ResetData();
  shared_ptr<TensorImpl> p; };
Tensor::Tensor() : p(make_shared<TensorImpl>()) {}
Tensor::Tensor(const TensorDesc &d) : p(make_shared<TensorImpl>()) { p->d = d; }
Tensor::Tensor(const TensorDesc &d, const uint8_t *b, size_t n) : p(make_shared<TensorImpl>()) { p->d = d; SetData(b, n); }
TensorDesc Tensor::GetTensorDesc() const { return p->d; }
uint32_t Tensor::SetTensorDesc(const TensorDesc &d) { p->d = d; return 0; }
const uint8_t *Tensor::GetData() const { return p->ext ? p->ext : p->own.data(); }
uint8_t *Tensor::GetData() { return p->ext ? p->ext : p->own.data(); }
size_t Tensor::GetSize() const { return p->n; }
uint32_t Tensor::SetData(const uint8_t *b, size_t n) { if (b) p->own.assign(b, b + n); p->n = n; return 0; }
uint32_t Tensor::SetData(uint8_t *b, size_t n, const std::function<void(uint8_t *)> &f) { p->ext = b; p->n = n; p->del = f; return 0; }
uint32_t Tensor::SetData(const string &s) { return SetData((const uint8_t *)s.data(), s.size()); }
uint32_t Tensor::SetData(const vector<string> &v) { string a; for (auto &s : v) a += s; return SetData(a); }
std::unique_ptr<uint8_t[], std::function<void(uint8_t *)>> Tensor::ResetData() { uint8_t *b = p->ext; p->ext = nullptr; p->n = 0;
  return std::unique_ptr<uint8_t[], std::function<void(uint8_t *)>>(b, p->del ? p->del : [](uint8_t *) {}); }

class TensorType { public: explicit TensorType(const std::initializer_list<DataType> &); shared_ptr<vector<DataType>> p; };
TensorType::TensorType(const std::initializer_list<DataType> &l) : p(make_shared<vector<DataType>>(l)) {}
class Promote { public: explicit Promote(const std::initializer_list<const char *> &); shared_ptr<vector<string>> p; };
Promote::Promote(const std::initializer_list<const char *> &l) : p(make_shared<vector<string>>(l.begin(), l.end())) {}
class Graph { public: explicit Graph(const char *); explicit Graph(const string &); shared_ptr<string> p; };
Graph::Graph(const char *s) : p(make_shared<string>(s ? s : "")) {}
Graph::Graph(const string &s) : p(make_shared<string>(s)) {}

// One attribute = one tagged value; integers are widened so that int/long setters and getters meet.
struct Val { int k = 0; long i = 0; float f = 0; string s; vector<long> vi; vector<float> vf; vector<bool> vb; vector<string> vs; vector<vector<long>> vvi; vector<DataType> vt; Tensor t; };
static Val mk(bool v) { Val r; r.k = 1; r.i = v; return r; }
static Val mk(long v) { Val r; r.k = 2; r.i = v; return r; }
static Val mk(int v) { return mk((long)v); }
static Val mk(unsigned v) { return mk((long)v); }
static Val mk(float v) { Val r; r.k = 3; r.f = v; return r; }
static Val mk(const string &v) { Val r; r.k = 4; r.s = v; return r; }
static Val mk(const char *v) { return mk(string(v ? v : "")); }
static Val mk(const AscendString &v) { return mk(v.GetString()); }
static Val mk(const vector<long> &v) { Val r; r.k = 5; r.vi = v; return r; }
static Val mk(const vector<int> &v) { return mk(vector<long>(v.begin(), v.end())); }
static Val mk(const vector<float> &v) { Val r; r.k = 6; r.vf = v; return r; }
static Val mk(const vector<bool> &v) { Val r; r.k = 7; r.vb = v; return r; }
static Val mk(const vector<string> &v) { Val r; r.k = 8; r.vs = v; return r; }
static Val mk(const vector<AscendString> &v) { vector<string> o; for (auto &s : v) o.push_back(s.GetString()); return mk(o); }
static Val mk(const vector<vector<long>> &v) { Val r; r.k = 9; r.vvi = v; return r; }
static Val mk(const DataType &v) { Val r; r.k = 10; r.i = v; return r; }
static Val mk(const vector<DataType> &v) { Val r; r.k = 11; r.vt = v; return r; }
static Val mk(const Tensor &v) { Val r; r.k = 12; r.t = v; return r; }
static bool un(const Val &a, bool &v) { v = a.i; return a.k == 1; }
static bool un(const Val &a, long &v) { v = a.i; return a.k == 2; }
static bool un(const Val &a, int &v) { v = (int)a.i; return a.k == 2; }
static bool un(const Val &a, float &v) { v = a.f; return a.k == 3; }
static bool un(const Val &a, string &v) { v = a.s; return a.k == 4; }
static bool un(const Val &a, vector<long> &v) { v = a.vi; return a.k == 5; }
static bool un(const Val &a, vector<int> &v) { v.assign(a.vi.begin(), a.vi.end()); return a.k == 5; }
static bool un(const Val &a, vector<float> &v) { v = a.vf; return a.k == 6; }
static bool un(const Val &a, vector<string> &v) { v = a.vs; return a.k == 8; }
static bool un(const Val &a, vector<vector<long>> &v) { v = a.vvi; return a.k == 9; }
static bool un(const Val &a, DataType &v) { v = (DataType)a.i; return a.k == 10; }
static bool un(const Val &a, vector<DataType> &v) { v = a.vt; return a.k == 11; }
static bool un(const Val &a, Tensor &v) { v = a.t; return a.k == 12; }

struct OpImpl { string name, type; std::map<string, Val> a; std::map<string, TensorDesc> in, out; std::map<string, long> dynout; };
class InferenceContext;
class Operator { public:
  explicit Operator(const char *); Operator(const char *, const char *); Operator(const AscendString &, const AscendString &); explicit Operator(const string &); Operator(const string &, const string &);
  virtual ~Operator() = default;
  string GetName() const; uint32_t GetName(AscendString &) const; string GetOpType() const; uint32_t GetOpType(AscendString &) const;
#define SETC(T) Operator &SetAttr(const char *, T);
#define SETS(T) Operator &SetAttr(const string &, T);
#define REG(T) void AttrRegister(const char *, T);
#define GETC(T) uint32_t GetAttr(const char *, T &) const;
#define GETS(T) uint32_t GetAttr(const string &, T &) const;
#define ALL_SETC(X) X(bool) X(float) X(int) X(long) X(unsigned) X(const char *) X(const DataType &) X(const Tensor &) X(const vector<int> &) X(const vector<long> &) X(const vector<float> &) X(const vector<DataType> &) X(const vector<vector<long>> &)
#define ALL_SETS(X) X(bool) X(float) X(int) X(long) X(const string &) X(const vector<int> &) X(const vector<long> &) X(const vector<float> &) X(const vector<bool> &) X(const vector<string> &)
#define ALL_REG(X) X(bool) X(float) X(long) X(const AscendString &) X(const DataType &) X(const Tensor &) X(const vector<long> &) X(const vector<float> &) X(const vector<bool> &) X(const vector<DataType> &) X(const vector<AscendString> &) X(const vector<vector<long>> &)
#define ALL_GETC(X) X(bool) X(float) X(int) X(long) X(DataType) X(Tensor) X(vector<int>) X(vector<long>) X(vector<float>) X(vector<DataType>) X(vector<vector<long>>)
#define ALL_GETS(X) X(string) X(int) X(long) X(vector<string>)
  ALL_SETC(SETC) ALL_SETS(SETS) ALL_REG(REG) ALL_GETC(GETC) ALL_GETS(GETS)
  Operator &SetInput(const char *, const Operator &); Operator &SetInput(const char *, uint32_t, const Operator &); Operator &SetInput(const char *, uint32_t, const Operator &, const char *);
  Operator &SetInput(const string &, const Operator &); Operator &SetInput(const string &, const Operator &, const string &); Operator &AddControlInput(const Operator &);
  uint32_t UpdateInputDesc(const char *, const TensorDesc &); uint32_t UpdateInputDesc(const string &, const TensorDesc &);
  uint32_t UpdateOutputDesc(const char *, const TensorDesc &); uint32_t UpdateOutputDesc(const string &, const TensorDesc &);
  TensorDesc GetInputDesc(const string &) const; TensorDesc GetInputDesc(uint32_t) const; TensorDesc GetInputDescByName(const char *) const; TensorDesc GetDynamicInputDesc(const char *, uint32_t) const;
  TensorDesc GetOutputDesc(const string &) const; TensorDesc GetOutputDesc(uint32_t) const; TensorDesc GetOutputDescByName(const char *) const;
  void DynamicOutputRegister(const char *, uint32_t, bool); void DynamicOutputRegister(const char *, uint32_t, const char *, bool); int GetDynamicOutputNum(const string &) const;
  shared_ptr<InferenceContext> GetInferenceContext() const;
  shared_ptr<OpImpl> p; };
static shared_ptr<OpImpl> ni(const char *n, const char *t) { auto r = make_shared<OpImpl>(); r->name = n ? n : ""; r->type = t ? t : ""; return r; }
Operator::Operator(const char *t) : p(ni("", t)) {}
Operator::Operator(const char *n, const char *t) : p(ni(n, t)) {}
Operator::Operator(const AscendString &n, const AscendString &t) : p(ni(n.GetString(), t.GetString())) {}
Operator::Operator(const string &t) : p(ni("", t.c_str())) {}
Operator::Operator(const string &n, const string &t) : p(ni(n.c_str(), t.c_str())) {}
string Operator::GetName() const { return p ? p->name : ""; }
uint32_t Operator::GetName(AscendString &s) const { s = AscendString(GetName().c_str()); return 0; }
string Operator::GetOpType() const { return p ? p->type : ""; }
uint32_t Operator::GetOpType(AscendString &s) const { s = AscendString(GetOpType().c_str()); return 0; }
template <class T> static uint32_t get(const shared_ptr<OpImpl> &p, const string &n, T &v) {
  if (!p) return FAIL; auto i = p->a.find(n); if (i == p->a.end()) return FAIL; T t = v; if (!un(i->second, t)) return FAIL; v = t; return 0; }
#undef SETC
#undef SETS
#undef REG
#undef GETC
#undef GETS
#define SETC(T) Operator &Operator::SetAttr(const char *n, T v) { if (p) p->a[n] = mk(v); return *this; }
#define SETS(T) Operator &Operator::SetAttr(const string &n, T v) { if (p) p->a[n] = mk(v); return *this; }
#define REG(T) void Operator::AttrRegister(const char *n, T v) { if (p) p->a[n] = mk(v); }
#define GETC(T) uint32_t Operator::GetAttr(const char *n, T &v) const { return get(p, n, v); }
#define GETS(T) uint32_t Operator::GetAttr(const string &n, T &v) const { return get(p, n, v); }
ALL_SETC(SETC) ALL_SETS(SETS) ALL_REG(REG) ALL_GETC(GETC) ALL_GETS(GETS)
Operator &Operator::SetInput(const char *, const Operator &) { return *this; }
Operator &Operator::SetInput(const char *, uint32_t, const Operator &) { return *this; }
Operator &Operator::SetInput(const char *, uint32_t, const Operator &, const char *) { return *this; }
Operator &Operator::SetInput(const string &, const Operator &) { return *this; }
Operator &Operator::SetInput(const string &, const Operator &, const string &) { return *this; }
Operator &Operator::AddControlInput(const Operator &) { return *this; }
uint32_t Operator::UpdateInputDesc(const char *n, const TensorDesc &d) { p->in[n] = d; return 0; }
uint32_t Operator::UpdateInputDesc(const string &n, const TensorDesc &d) { p->in[n] = d; return 0; }
uint32_t Operator::UpdateOutputDesc(const char *n, const TensorDesc &d) { p->out[n] = d; return 0; }
uint32_t Operator::UpdateOutputDesc(const string &n, const TensorDesc &d) { p->out[n] = d; return 0; }
static TensorDesc fd(const std::map<string, TensorDesc> &m, const string &n) { auto i = m.find(n); return i == m.end() ? TensorDesc() : i->second; }
TensorDesc Operator::GetInputDesc(const string &n) const { return fd(p->in, n); }
TensorDesc Operator::GetInputDesc(uint32_t) const { return TensorDesc(); }
TensorDesc Operator::GetInputDescByName(const char *n) const { return fd(p->in, n); }
TensorDesc Operator::GetDynamicInputDesc(const char *, uint32_t) const { return TensorDesc(); }
TensorDesc Operator::GetOutputDesc(const string &n) const { return fd(p->out, n); }
TensorDesc Operator::GetOutputDesc(uint32_t) const { return TensorDesc(); }
TensorDesc Operator::GetOutputDescByName(const char *n) const { return fd(p->out, n); }
void Operator::DynamicOutputRegister(const char *n, uint32_t c, bool) { p->dynout[n] = c; }
void Operator::DynamicOutputRegister(const char *n, uint32_t c, const char *, bool) { p->dynout[n] = c; }
int Operator::GetDynamicOutputNum(const string &n) const { auto i = p->dynout.find(n); return i == p->dynout.end() ? 0 : (int)i->second; }
shared_ptr<InferenceContext> Operator::GetInferenceContext() const { return nullptr; }
class OperatorFactory { public: static Operator CreateOperator(const char *, const char *); static Operator CreateOperator(const string &, const string &); static bool IsExistOp(const char *); static bool IsExistOp(const string &); };
Operator OperatorFactory::CreateOperator(const char *n, const char *t) { return Operator(n, t); }
Operator OperatorFactory::CreateOperator(const string &n, const string &t) { return Operator(n, t); }
bool OperatorFactory::IsExistOp(const char *) { return true; }
bool OperatorFactory::IsExistOp(const string &) { return true; }
class StatusFactory { public: static StatusFactory *Instance(); };
alignas(64) static char sfbuf[4096];
StatusFactory *StatusFactory::Instance() { static bool i = (new (sfbuf) std::map<uint32_t, string>(), true); (void)i; return (StatusFactory *)sfbuf; }
}
