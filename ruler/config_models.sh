# The models that run.sh knows by name. Sourced by run.sh; edit it as you like.
#
# A variable that you set yourself comes first: MODEL_FRAMEWORK=vllm bash run.sh NAME synthetic
SEQ_LENGTHS=(${SEQ_LENGTHS:-4096 8192 16384 32768 65536}) # tokens of prompt and answer

MODEL_SELECT() { # name, folder of the checkpoints (OUTPUT_ROOT of finetune.sh and extend.sh)
  # MODEL_PATH: checkpoint folder or hub id    TOKENIZER_PATH: if it is another one
  # MODEL_FRAMEWORK: hf, vllm, or openai for any compatible server; compare methods in one framework only
  MODEL_FRAMEWORK=hf
  case $1 in
    llama2-7b-hf) MODEL_PATH=meta-llama/Llama-2-7b-hf ;;
    llama2-7b-hf-lminfinite) MODEL_PATH=$2/llama2-7b-hf-slimpajama_lm_infinite_frozen ;;
    llama2-7b-hf-ntk-frozen) MODEL_PATH=$2/llama2-7b-hf-slimpajama_ntk_frozen ;;
    llama2-7b-hf-selfextend) MODEL_PATH=$2/llama2-7b-hf-slimpajama_self_extend_frozen ;;
    llama2-7b-hf-slimpajama-pi-32k) MODEL_PATH=$2/llama2-7b-hf-slimpajama_pi_32768 ;;
    llama2-7b-hf-slimpajama-yarn-32k) MODEL_PATH=$2/llama2-7b-hf-slimpajama_yarn_32768 ;;
    llama2-7b-hf-slimpajama-ntk-32k) MODEL_PATH=$2/llama2-7b-hf-slimpajama_ntk_32768 ;;
    llama2-7b-hf-slimpajama-ntk-64k) MODEL_PATH=$2/llama2-7b-hf-slimpajama_ntk_65536 ;;
    llama-2-7b-hf-slimpajama-ntk-64k-2B) MODEL_PATH=$2-2b/llama2-7b-hf-slimpajama-2b_ntk_65536 ;;
    llama2-7b-hf-slimpajama-clex-32k) MODEL_PATH=$2/llama2-7b-hf-slimpajama_clex_32768 ;;
    llama2-7b-hf-slimpajama-longlora-32k) MODEL_PATH=$2/llama2-7b-hf-slimpajama_longlora_32768 ;;
    llama2-7b-hf-slimpajama-landmark) MODEL_PATH=$2/llama2-7b-hf-slimpajama_landmark_512 ;;
    # a model behind a server: MODEL_PATH is the server's name for it; the tokenizer sizes the data
    # my-server) MODEL_PATH=my-model MODEL_FRAMEWORK=openai TOKENIZER_PATH=$2/my-model ;;
  esac
}
