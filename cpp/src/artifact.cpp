#include "artifact.h"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

namespace detexport {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

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

void verify_files(const json& files, const std::string& main_file, const fs::path& folder) {
    const std::string remedy = "export the model again; do not edit an artifact's files";
    if (!files.contains(main_file))
        throw Error("the main file of " + folder.string() + " has no digest", {main_file, "", remedy});
    for (const auto& [name, digest] : files.items()) {
        const std::string got = sha256_file(folder / name), expected = digest;
        if (got != expected)
            throw Error((folder / name).string() + " is not the file that was exported",
                        {got, "sha256 " + expected, remedy});
    }
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
        manifest = json::parse(std::ifstream(folder / "artifact.json"));
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
    } catch (const json::exception& error) {
        throw Error(folder.string() + " is not an artifact",
                    {error.what(), "a folder with an artifact.json as the export writes it",
                     "export the model again"});
    }
    verify_files(manifest.at("files"), manifest.at("main_file"), folder);
    return artifact;
}

}  // namespace detexport
