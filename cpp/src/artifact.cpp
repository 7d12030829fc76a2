#include "artifact.h"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

namespace detexport {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::string manifest_name = "artifact.json";

class Sha256 {
public:
    Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
        EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
    }

    void update(const void* data, size_t size) { EVP_DigestUpdate(context_.get(), data, size); }

    std::string hexdigest() {
        std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
        unsigned int size = 0;
        EVP_DigestFinal_ex(context_.get(), digest.data(), &size);
        std::string text;
        for (unsigned int i = 0; i < size; ++i) {
            text += "0123456789abcdef"[digest[i] >> 4];
            text += "0123456789abcdef"[digest[i] & 15];
        }
        return text;
    }

private:
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

std::string sha256_file(const fs::path& path) {
    if (!fs::is_regular_file(path)) return "no such file";
    std::ifstream file(path, std::ios::binary);
    std::vector<char> block(1 << 20);
    Sha256 digest;
    while (file.read(block.data(), block.size()) || file.gcount()) digest.update(block.data(), file.gcount());
    return digest.hexdigest();
}

Contract read_contract(const json& value) {
    Contract contract{
        .input_names = {},
        .outputs = {},
        .channel_order = value.at("channel_order"),
        .min_size = value.at("resize").at("min_size"),
        .max_size = value.at("resize").at("max_size"),
        .class_names = value.at("class_names"),
        .stuff_class_names = value.value("stuff_class_names", std::vector<std::string>{}),
        .mask_threshold = value.at("mask_threshold"),
        .panoptic = {},
    };
    for (const json& spec : value.at("inputs")) contract.input_names.push_back(spec.at("name"));
    for (const json& spec : value.at("outputs"))
        contract.outputs.push_back({spec.at("name"), spec.at("dtype"), spec.at("shape").size()});
    if (const auto rule = value.find("panoptic"); rule != value.end() && !rule->is_null())
        contract.panoptic = {rule->at("overlap_threshold"), rule->at("instances_score_threshold"),
                             rule->at("stuff_area_limit")};
    return contract;
}

// Return a name as JSON escapes it: one line of text whatever its bytes are.
std::string escaped(const std::string& name) {
    const std::string quoted = json(name).dump(-1, ' ', false, json::error_handler_t::replace);
    return quoted.substr(1, quoted.size() - 2);
}

// Return the first names in order, and the number of others.
std::string some(const std::set<std::string>& names) {
    const size_t most = 3;
    std::string text;
    size_t count = 0;
    for (const std::string& name : names)
        if (count++ < most) text += (count > 1 ? ", " : "") + escaped(name);
    return count > most ? text + " and " + std::to_string(count - most) + " more" : text;
}

// Return why a file's name in a manifest is not that of a file in its folder; empty if it is.
std::string path_fault(const std::string& name) {
    for (const unsigned char c : name)
        if (c < ' ' || c == 127 || c == '\\' || c == ':')
            return "a character that file names may not have: a control character, \\ or :";
    std::istringstream parts(name + "/");
    bool inside = true;
    for (std::string part; std::getline(parts, part, '/');)
        inside &= !part.empty() && part != "." && part != "..";
    if (!inside) return "a path that leads out of the folder, or not the shortest one";
    return name == manifest_name ? "the manifest itself" : "";
}

// Return the listed name with a fault, or the needed one that is not listed, and why; empty if there is none.
std::string files_fault(const std::set<std::string>& listed, const fs::path& main_file,
                        const std::string& format) {
    for (const std::string& name : listed)
        if (const std::string fault = path_fault(name); !fault.empty()) return escaped(name) + ": " + fault;
    std::vector<fs::path> needed{main_file};
    if (format == "OpenVINO IR")  // which also opens the file of its weights
        for (const char* suffix : {".xml", ".bin"})
            needed.push_back(fs::path(main_file).replace_extension(suffix));
    for (const fs::path& name : needed)
        if (!listed.contains(name.generic_string()))
            return escaped(name.generic_string()) + " has no digest; " + format + " needs it";
    return "";
}

// Return the names of a folder's files, folders and links that are not listed; follow no link and enter no
// unlisted folder.
std::set<std::string> unlisted(const fs::path& folder, const std::set<std::string>& listed) {
    std::set<std::string> parents, extra;
    for (const std::string& name : listed)
        for (fs::path parent = fs::path(name).parent_path(); !parent.empty(); parent = parent.parent_path())
            parents.insert(parent.generic_string());
    for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::end(entry); ++entry) {
        const std::string name = entry->path().lexically_relative(folder).generic_string();
        const fs::file_status status = entry->symlink_status();
        if (fs::is_directory(status)) {
            if (parents.contains(name)) continue;
            entry.disable_recursion_pending();
            extra.insert(name + "/");
        } else if (fs::is_symlink(status)) {
            extra.insert(name + ", a symbolic link");
        } else if (!fs::is_regular_file(status) || (name != manifest_name && !listed.contains(name))) {
            extra.insert(name);
        }
    }
    return extra;
}

// Compare a folder with its manifest, which lists all its other files.
void verify_files(const fs::path& folder, const json& manifest) {
    const auto files = manifest.at("files").get<std::map<std::string, std::string>>();
    std::set<std::string> listed;
    for (const auto& file : files) listed.insert(file.first);
    if (const std::string fault =
            files_fault(listed, manifest.at("main_file").get<std::string>(), manifest.at("format"));
        !fault.empty())
        throw Error(folder.string() + " has an invalid manifest",
                    {"files: " + fault, "", "export the model again"});
    if (const std::set<std::string> extra = unlisted(folder, listed); !extra.empty())
        throw Error(folder.string() + " holds files that its manifest does not list",
                    {some(extra),
                     "only " + manifest_name + " and " + some(listed) + ", which are regular files",
                     "remove them, or export the model again into an empty folder"});
    for (const auto& [name, expected] : files)
        if (const std::string got = sha256_file(folder / name); got != expected)
            throw Error((folder / name).string() + " is not the file that was exported",
                        {got, "sha256 " + expected,
                         "export the model again; do not edit an artifact's files"});
}

}  // namespace

std::string sha256(const void* data, size_t size) {
    Sha256 digest;
    digest.update(data, size);
    return digest.hexdigest();
}

Artifact read_verified(const fs::path& folder, const std::string& format) {
    json manifest;
    Artifact artifact;
    try {
        manifest = json::parse(std::ifstream(folder / manifest_name));
        const auto sides = manifest.value("image_sides", std::vector<int64_t>{1, 65535});
        const json& options = manifest.at("options");
        artifact = {.format = manifest.at("format"),
                    .main_file = folder / manifest.at("main_file").get<std::string>(),
                    .batch = manifest.at("batch"),
                    .device = options.value("device", ""),
                    .instruction_set = options.value("instruction_set", ""),
                    .smallest_side = sides.at(0),
                    .largest_side = sides.at(1),
                    .contract = read_contract(manifest.at("contract"))};
        if (artifact.format != format)
            throw Error(
                folder.string() + " cannot be opened by this program",
                {artifact.format, format, "choose the program for the artifact's format"});
        const std::vector<std::string>& inputs = artifact.contract.input_names;
        if (inputs.empty() || inputs.size() > 2 || (inputs.size() == 2 && inputs[1] != "output_size"))
            throw Error(
                "this program does not support the graph's inputs",
                {manifest.at("contract").at("inputs").dump(), "an image, and optionally its output_size"});
        verify_files(folder, manifest);
    } catch (const json::exception& error) {
        throw Error(folder.string() + " is not an artifact",
                    {error.what(), "a folder with an " + manifest_name + " as the export writes it",
                     "export the model again"});
    }
    return artifact;
}

}  // namespace detexport
