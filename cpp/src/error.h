// Errors that a user can correct: what, got, expected, remedy in one message, as in the Python package.
#pragma once

#include <stdexcept>
#include <string>

namespace detexport {

struct Facts {
    std::string got = {}, expected = {}, remedy = {};
};

class Error : public std::runtime_error {
public:
    explicit Error(std::string what, const Facts& facts = {})
        : std::runtime_error(join(std::move(what), facts)) {}

private:
    static std::string join(std::string text, const Facts& facts) {
        if (!facts.got.empty()) text += "; got: " + facts.got;
        if (!facts.expected.empty()) text += "; expected: " + facts.expected;
        if (!facts.remedy.empty()) text += "; remedy: " + facts.remedy;
        return text;
    }
};

}  // namespace detexport
