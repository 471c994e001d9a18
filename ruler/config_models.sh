# The models that run.sh knows by name, and how all are asked. Sourced by run.sh; edit it as you like.
#
# Answers are greedy, whatever stands here; RULER's own settings say the same.
TEMPERATURE="0.0"
TOP_P="1.0"
TOP_K="32"
SEQ_LENGTHS=(${SEQ_LENGTHS:-4096 8192 16384 32768 65536}) # tokens of prompt and answer

MODEL_SELECT() { # name, folder of the models, folder of TensorRT engines (not supported, accepted)
  MODEL_NAME=$1
  MODEL_DIR=$2
  ENGINE_DIR=$3

  case $MODEL_NAME in
    llama2-7b-hf)
      MODEL_PATH="meta-llama/Llama-2-7b-hf"
      MODEL_TEMPLATE_TYPE="base"
      MODEL_FRAMEWORK="hf"
      ;;
    llama2-7b-hf-slimpajama-pi-32k)
      MODEL_PATH="$MODEL_DIR/llama2-7b-hf-slimpajama_pi_32768"
      MODEL_TEMPLATE_TYPE="base"
      MODEL_FRAMEWORK="hf"
      ;;
    llama2-7b-hf-slimpajama-yarn-32k)
      MODEL_PATH="$MODEL_DIR/llama2-7b-hf-slimpajama_yarn_32768"
      MODEL_TEMPLATE_TYPE="base"
      MODEL_FRAMEWORK="vllm" # a plain checkpoint; compare methods in one framework only
      ;;
    llama2-7b-hf-slimpajama-ntk-32k)
      MODEL_PATH="$MODEL_DIR/llama2-7b-hf-slimpajama_ntk_32768"
      MODEL_TEMPLATE_TYPE="base"
      MODEL_FRAMEWORK="hf"
      ;;
    # a model behind a server: MODEL_PATH is the server's name for it; the tokenizer sizes the data
    # my-server)
    #   MODEL_PATH="my-model"
    #   MODEL_FRAMEWORK="openai"
    #   TOKENIZER_PATH="$MODEL_DIR/my-model"
    #   ;;
  esac
}
