#include "text/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include "base/error.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "text/over_texts.h"
#include "text/token_model.h"

namespace rhetor {

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool keep_specials) const {
  std::string out;
  for (const TokenId id : ids) {
    if (keep_specials || !is_special(id)) out += token_bytes(id);
  }
  return out;
}

// Byte-level: the tokens of a text are its bytes, in order. A token that holds part of a character stands for all of it.
Encoding Tokenizer::encode_ranges(std::string_view text, bool specials) const {
  Encoding out;
  out.ids = encode(text, specials);
  const auto inside = [&](std::uint32_t at) { return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80; };
  std::uint32_t at = 0;
  for (const TokenId id : out.ids) {
    const auto end = at + static_cast<std::uint32_t>(token_bytes(id).size());
    Encoding::Range range{at, end};
    for (int i = 0; i < 3 && range.begin > 0 && inside(range.begin); ++i) --range.begin;
    for (int i = 0; i < 3 && inside(range.end); ++i) ++range.end;
    out.ranges.push_back(range);
    at = end;
  }
  out.segments.assign(out.ids.size(), 0);
  out.added.assign(out.ids.size(), 0);
  return out;
}

void over_texts(std::size_t count, const std::function<void(std::size_t)>& each) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failed;
  const auto work = [&] {
    for (std::size_t i; (i = next.fetch_add(1)) < count;) {
      try {
        each(i);
      } catch (...) {   // tasks of the pool must not throw
        const std::lock_guard lock(mutex);
        if (!failed) failed = std::current_exception();
        next = count;
      }
    }
  };
  default_pool().parallel_for(std::min<std::int64_t>(static_cast<std::int64_t>(count), default_pool().threads()), 1,
                              [&](std::int64_t, std::int64_t) { work(); });
  if (failed) std::rethrow_exception(failed);
}

std::vector<std::vector<TokenId>> encode_batch(const Tokenizer& tokenizer, std::span<const std::string_view> texts, bool specials) {
  std::vector<std::vector<TokenId>> out(texts.size());
  over_texts(texts.size(), [&](std::size_t i) { out[i] = tokenizer.encode(texts[i], specials); });
  return out;
}

void Tokenizer::save(const std::filesystem::path& path) const { write_file_atomic(path, to_json()); }

TokenizerPtr load_tokenizer(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto there = [&](const std::filesystem::path& file) { return std::filesystem::exists(file, ignored); };
  std::filesystem::path file = path;
  if (std::filesystem::is_directory(path, ignored)) {
    // A folder may have several of them; tokenizer.json says most.
    for (const char* name : {"tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"}) {
      file = path / name;
      if (there(file)) break;
    }
    if (!there(file))
      fail(ErrorKind::not_found, "the model folder '{}' has no tokenizer.json (nor tokenizer.model, vocab.json, vocab.txt); give the folder that "
           "'rhetor train' wrote, or a tokenizer.json file", path.string());
  }
  if (file.extension() == ".model") return load_sentencepiece(file);
  if (file.extension() == ".txt") return load_vocab_txt(file);
  if (file.filename() == "vocab.json") return load_vocab_merges(file, file.parent_path() / "merges.txt");
  // The largest published vocabularies are below 40 MB as JSON.
  return tokenizer_from_json(read_file(file, 256u << 20), file.string());
}

}  // namespace rhetor
