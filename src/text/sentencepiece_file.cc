#include "text/sentencepiece_file.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <unordered_set>

#include "base/error.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxPieces = 1 << 22;
constexpr std::size_t kMaxPieceBytes = 2048;   // SentencePiece trains pieces of at most 512 characters

// A message of a protocol buffer, field by field. Never reads outside `bytes`.
class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  // The next field, or false at the end. A field of an unknown number is to be ignored.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    number_ = tag >> 3;
    kind_ = static_cast<int>(tag & 7);
    if (number_ == 0) damaged();
    switch (kind_) {
      case 0: value_ = varint(); break;
      case 1: take(8); break;
      case 2: take(varint()); break;
      case 5: take(4); break;
      default: damaged();
    }
    return true;
  }
  std::uint64_t number() const { return number_; }
  std::uint64_t integer() const { return expect(0), value_; }
  bool flag() const { return integer() != 0; }
  std::string_view bytes() const { return expect(2), bytes_; }
  float real() const {
    expect(5);
    std::uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) bits |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes_[static_cast<std::size_t>(i)])) << (8 * i);
    return std::bit_cast<float>(bits);
  }

 private:
  [[noreturn]] void damaged() const { fail("{}: not a SentencePiece model, or a damaged one (its fields do not add up)", name_); }
  void expect(int kind) const {
    if (kind_ != kind) damaged();
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < 10 && i < rest_.size(); ++i) {
      const auto byte = static_cast<unsigned char>(rest_[i]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << (7 * i);
      if (byte < 0x80) {
        rest_.remove_prefix(i + 1);
        return value;
      }
    }
    damaged();
  }
  void take(std::uint64_t count) {
    if (count > rest_.size()) damaged();
    bytes_ = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(static_cast<std::size_t>(count));
  }

  std::string_view rest_, bytes_;
  const std::string& name_;
  std::uint64_t number_ = 0, value_ = 0;
  int kind_ = 0;
};

std::string shortened(std::string_view text) { return utf8_cleaned(text.substr(0, utf8_cut(text, 40))); }

class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  SentencePieceFile read(std::string_view bytes) {
    Message model(bytes, name_);
    while (model.next()) {
      switch (model.number()) {
        case 1: read_piece(model.bytes()); break;
        case 2: read_trainer(model.bytes()); break;
        case 3: read_normalizer(model.bytes()); break;
        case 5: refuse_denormalizer(model.bytes()); break;
        default: break;
      }
    }
    check_pieces();
    return std::move(out_);
  }

 private:
  void read_piece(std::string_view bytes) {
    if (out_.pieces.size() == kMaxPieces) fail("{}: more than {} pieces", name_, kMaxPieces);
    SentencePieceFile::Piece piece;
    Message fields(bytes, name_);
    while (fields.next()) {
      switch (fields.number()) {
        case 1: piece.text = fields.bytes(); break;
        case 2: piece.score = fields.real(); break;
        case 3: {
          const std::uint64_t type = fields.integer();
          if (type < 1 || type > 6) fail("{}: piece {} has the type {}, expected 1 to 6", name_, out_.pieces.size(), type);
          piece.type = static_cast<SentencePieceFile::Type>(type);
          break;
        }
        default: break;
      }
    }
    out_.pieces.push_back(std::move(piece));
  }

  void read_trainer(std::string_view bytes) {
    Message fields(bytes, name_);
    while (fields.next()) {
      switch (fields.number()) {
        case 3: {
          const std::uint64_t type = fields.integer();
          if (type != 1 && type != 2)
            fail("{}: the model type is {}, only unigram (1) and BPE (2) can be read; word and character models need no vocabulary of pieces",
                 name_, type);
          out_.algorithm = static_cast<SentencePieceFile::Algorithm>(type);
          break;
        }
        case 24: out_.whitespace_as_suffix = fields.flag(); break;
        case 35: out_.byte_fallback = fields.flag(); break;
        case 44: out_.unknown_surface = fields.bytes(); break;
        default: break;
      }
    }
  }

  void read_normalizer(std::string_view bytes) {
    Message fields(bytes, name_);
    while (fields.next()) {
      switch (fields.number()) {
        case 2: out_.charsmap = fields.bytes(); break;
        case 3: out_.add_dummy_prefix = fields.flag(); break;
        case 4: out_.remove_extra_whitespaces = fields.flag(); break;
        case 5: out_.escape_whitespaces = fields.flag(); break;
        default: break;
      }
    }
  }

  void refuse_denormalizer(std::string_view bytes) const {
    Message fields(bytes, name_);
    while (fields.next()) {
      if (fields.number() == 2 && !fields.bytes().empty())
        fail("{}: the model has rules that change decoded text (denormalizer_spec), which cannot be applied here", name_);
    }
  }

  void check_pieces() {
    if (out_.pieces.empty()) fail("{}: not a SentencePiece model (it has no pieces)", name_);
    std::unordered_set<std::string_view> seen;
    int bytes = 0;
    for (std::size_t id = 0; id < out_.pieces.size(); ++id) {
      const auto& piece = out_.pieces[id];
      if (piece.text.empty()) fail("{}: piece {} is empty", name_, id);
      if (piece.text.size() > kMaxPieceBytes) fail("{}: piece {} has {} bytes, the limit is {}", name_, id, piece.text.size(), kMaxPieceBytes);
      if (utf8_valid_prefix(piece.text) != piece.text.size()) fail("{}: piece {} is not UTF-8", name_, id);
      if (!std::isfinite(piece.score)) fail("{}: the score of piece {} ('{}') is not a number", name_, id, shortened(piece.text));
      if (!seen.insert(piece.text).second) fail("{}: the piece '{}' appears twice", name_, shortened(piece.text));
      if (piece.type == SentencePieceFile::Type::unknown) {
        if (out_.unknown >= 0) fail("{}: two unknown pieces, {} and {}", name_, out_.unknown, id);
        out_.unknown = static_cast<int>(id);
      }
      if (piece.type == SentencePieceFile::Type::byte) {
        if (!out_.byte_fallback || byte_of_piece(piece.text) < 0)
          fail("{}: piece {} ('{}') is a byte, but {}", name_, id, shortened(piece.text),
               out_.byte_fallback ? "is not written as <0xNN>" : "the model has no byte fallback");
        ++bytes;
      }
    }
    if (out_.unknown < 0) fail("{}: the model has no unknown piece", name_);
    if (out_.byte_fallback && bytes != 256) fail("{}: {} byte pieces, byte fallback needs 256", name_, bytes);
  }

  const std::string& name_;
  SentencePieceFile out_;
};

}  // namespace

int byte_of_piece(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int byte = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    byte = byte * 16 + digit;
  }
  return byte;
}

SentencePieceFile read_sentencepiece(std::string_view bytes, const std::string& name) { return Reader(name).read(bytes); }

}  // namespace rhetor
